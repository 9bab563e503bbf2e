"""What touches the device: the KV cache's tensors, the model runner and the sampler."""
