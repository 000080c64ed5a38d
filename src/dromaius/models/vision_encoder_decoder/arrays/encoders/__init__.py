"""Pictures to tokens. Each module: `encode(xp, config, w, pixels)`, `tensors(config)`."""
