"""Declares and drives experiments: configuration, datasets, tasks, sinks, tracking and reports, on top of ``engine``."""
