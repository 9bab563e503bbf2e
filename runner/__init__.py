"""Declares and drives experiments: configuration, datasets, tasks, sinks, tracking, reports; on top of ``engine``."""
