"""Emu3: language model, vision tokenizer, vocabulary, prompts and weights."""
