"""The words the nano data uses for colours, skin tones, groups and numbers, in two languages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One notion in English and Chinese."""

    en: str
    zh: str

    def __getitem__(self, language: str) -> str:
        return self.en if language == "en" else self.zh


LANGUAGES = ("en", "zh")

# Background colours. White is the default, which a prompt leaves unsaid.
COLOURS = {
    "white": (255, 255, 255),
    "black": (30, 30, 30),
    "grey": (150, 150, 150),
    "red": (235, 90, 80),
    "yellow": (255, 225, 90),
    "green": (110, 190, 100),
    "blue": (80, 140, 230),
    "purple": (150, 100, 200),
    "pink": (250, 170, 200),
}

COLOUR_WORDS = {
    "white": Words("white", "白色"),
    "black": Words("black", "黑色"),
    "grey": Words("grey", "灰色"),
    "red": Words("red", "红色"),
    "yellow": Words("yellow", "黄色"),
    "green": Words("green", "绿色"),
    "blue": Words("blue", "蓝色"),
    "purple": Words("purple", "紫色"),
    "pink": Words("pink", "粉色"),
}

# As the names have them; "" is an emoji without a skin tone.
TONE_WORDS = {
    "": Words("no skin tone", "没有肤色"),
    "1": Words("light skin tone", "较浅肤色"),
    "2": Words("medium-light skin tone", "中等-浅肤色"),
    "3": Words("medium skin tone", "中等肤色"),
    "4": Words("medium-dark skin tone", "中等-深肤色"),
    "5": Words("dark skin tone", "较深肤色"),
}

GROUP_WORDS = {
    "smileys-emotion": Words("smileys and emotion", "表情"),
    "people-body": Words("people and body", "人物"),
    "animals-nature": Words("animals and nature", "动物和自然"),
    "food-drink": Words("food and drink", "食物和饮料"),
    "travel-places": Words("travel and places", "旅行和地点"),
    "activities": Words("activities", "活动"),
    "objects": Words("objects", "物品"),
    "symbols": Words("symbols", "符号"),
    "flags": Words("flags", "旗帜"),
    "component": Words("components", "组件"),
}

NUMBER_WORDS = {
    1: Words("one", "一个"),
    2: Words("two", "两个"),
    3: Words("three", "三个"),
    4: Words("four", "四个"),
}

YES = Words("yes", "有")
NO = Words("no", "没有")


def colour_name(rgb: list[int] | tuple[int, ...]) -> str:
    """The key of COLOURS with exactly that value. Raises ValueError for any other colour."""
    for name, value in COLOURS.items():
        if value == tuple(rgb):
            return name
    raise ValueError(f"no name for the colour {tuple(rgb)}")
