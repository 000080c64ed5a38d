"""Mechanisms of neural networks: no checkpoints, no family names, no files."""
