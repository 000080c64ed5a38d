"""Emu3: one decoder-only transformer over text and vision tokens (arXiv 2409.18869)."""
