"""Who computes what in the next step: requests, blocks, prefix cache and the scheduler. Pure Python, no tensors."""
