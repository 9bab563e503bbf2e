"""Sweeps: many jobs in a declared order, each a run of its own in a process of its own."""
