"""Texts that are being written: the decoder's step, and where keys and values lie."""
