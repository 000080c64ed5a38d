"""What a model will take on a device, before anything is loaded."""
