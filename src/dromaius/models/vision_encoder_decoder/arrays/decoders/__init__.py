"""Text from pictures, one family a module.

Each has `memory(xp, config, w, hidden)`: the picture's keys and values, computed once;
`logits(xp, config, w, ids, view, picture, cache)`: logits [B, T, V] of tokens ids [B, T], and the
cache with theirs in it (without a cache: their own keys and values); and `tensors(config)`.
"""
