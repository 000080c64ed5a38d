"""Which pictures nothing is trained on. Pure functions of code points, tone and style.

Code points are lower-case hex without leading zeros, joined by "-", without the variation
selector fe0f ("1f468-200d-1f692").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

HELD_EMOJI = 0.04
HELD_PAIR = 0.05
HELD_COMBO = 0.10
SPLITS = ("train", "held_emoji", "held_combo", "held_pair")


def unit(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32


def held_emoji(base_cp: str) -> bool:
    """The emoji is never seen: not in any style or tone, not by the vision tokenizer either."""
    return unit(f"emoji:{base_cp}") < HELD_EMOJI


def held_pair(cp: str, style: str) -> bool:
    """The language model never sees this emoji in this style; in other styles it does."""
    return unit(f"pair:{cp}:{style}") < HELD_PAIR


def held_combo(base_cp: str, tone: str, style: str) -> bool:
    """The language model never sees this person in this skin tone and style ("" is no tone)."""
    return tone != "" and unit(f"combo:{base_cp}:{tone}:{style}") < HELD_COMBO


def split_of(record: Mapping[str, Any]) -> str:
    """The strictest split of a record of pictures.jsonl, one of SPLITS."""
    for name in ("held_emoji", "held_combo", "held_pair"):
        if record[name]:
            return name
    return "train"
