"""Every emoji with its English and Chinese name, from emojibase (text of Unicode CLDR)."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from download import members

# Regional indicator letters and the like have no group in emojibase.
NO_GROUP = "component"


@dataclass(frozen=True)
class Emoji:
    """One emoji, with a skin tone or without."""

    cp: str  # see splits.py
    base_cp: str  # the same emoji without skin tone
    en: str
    zh: str
    group: str
    subgroup: str
    keywords_en: tuple[str, ...]
    keywords_zh: tuple[str, ...]
    tone: str = ""  # "1" (light) .. "5" (dark); "1+3" for two people; "" without

    @property
    def is_base(self) -> bool:
        """True for the emoji without skin tone."""
        return self.tone == ""


def code_points(hexcode: str) -> str:
    """ "0023-FE0F-20E3" -> "23-20e3"."""
    parts = hexcode.lower().split("-")
    return "-".join(part.lstrip("0") for part in parts if part != "fe0f")


def slug(name: str) -> str:
    """The icon name an English name becomes in the Iconify sets: "Mrs. Claus" -> "mrs-claus"."""
    text = name.lower().replace("’", "'")  # the typographic apostrophe would be dropped below
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = text.replace("&", "and").replace("*", "asterisk").replace("#", "hash")
    text = re.sub(r"['.!(),]", "", text)
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def read_names(tarball: Path) -> list[Emoji]:
    """All emoji of the emojibase package, base emoji first, each followed by its skin tones."""
    wanted = {"en/data.json", "zh/data.json", "meta/groups.json"}
    files = {
        name: json.loads(data) for name, data in members(tarball, suffix=".json") if name in wanted
    }
    return parse_names(files["en/data.json"], files["zh/data.json"], files["meta/groups.json"])


def parse_names(
    english: list[dict[str, Any]], chinese: list[dict[str, Any]], groups: dict[str, Any]
) -> list[Emoji]:
    """The emoji of emojibase's two parallel lists. Raises ValueError when they do not match."""
    found = []
    for en, zh in zip(english, chinese, strict=True):
        if en["hexcode"] != zh["hexcode"]:
            raise ValueError(f"English has {en['hexcode']} where Chinese has {zh['hexcode']}")
        cp = code_points(en["hexcode"])
        base = Emoji(
            cp=cp,
            base_cp=cp,
            en=en["label"],
            zh=zh["label"],
            group=groups["groups"].get(str(en.get("group")), NO_GROUP),
            subgroup=groups["subgroups"].get(str(en.get("subgroup")), NO_GROUP),
            keywords_en=tuple(en.get("tags", ())),
            keywords_zh=tuple(zh.get("tags", ())),
        )
        found.append(base)
        zh_names = {skin["hexcode"]: skin["label"] for skin in zh.get("skins", ())}
        for skin in en.get("skins", ()):
            tones = skin["tone"] if isinstance(skin["tone"], list) else [skin["tone"]]
            found.append(
                replace(
                    base,
                    cp=code_points(skin["hexcode"]),
                    en=skin["label"],
                    zh=zh_names[skin["hexcode"]],
                    tone="+".join(map(str, tones)),
                )
            )
    return found
