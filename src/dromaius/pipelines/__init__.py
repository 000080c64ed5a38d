"""Tokenizer, model and engine joined into jobs."""
