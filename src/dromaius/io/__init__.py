"""Bytes in, tensors out: checkpoints, the hub, pictures and video."""
