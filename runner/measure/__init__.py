"""What a run measured, defined once."""
