"""Next-token decoding: it speaks ids only."""
