"""The model families, each plain PyTorch in a room of its own."""
