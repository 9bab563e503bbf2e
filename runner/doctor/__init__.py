"""Whether this machine and installation can run recipes well, and what to do where they cannot."""
