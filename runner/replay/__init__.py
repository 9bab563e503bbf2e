"""Running a run again from its manifest, and saying whether it came out the same."""
