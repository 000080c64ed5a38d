"""Ids of the published tokenizers for the texts of the spec (emu3.md, table 3.3).

Each row: text, ids of the BAAI form, ids of the published HF form (None: the same). Special names
in the text are parsed, as upstream parses them.
"""

NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry."
)
IMAGE = (
    "<|image start|>64*64<|image token|><|visual token 000000|><|visual token 011928|>"
    "<|extra_200|><|visual token 032767|><|extra_200|><|extra_201|><|image end|><|extra_204|>"
)

# text, BAAI ids, published HF ids where they differ
_ROWS: list[tuple[str, str, str | None]] = [
    ("You are a helpful assistant.", "2610 525 264 10950 17847 13", None),
    (
        "<|extra_203|>You are a helpful assistant. USER: ",
        "151849 2610 525 264 10950 17847 13 13872 25 220",
        None,
    ),
    ("Please describe the image", "5501 7512 279 2168", None),
    ("请描述该图片", "14880 53481 75882 45930", None),
    (
        "a portrait of young girl. masterpiece, film grained, best quality.",
        "64 33033 315 3908 3743 13 58731 11 4531 1081 2627 11 1850 4271 13",
        None,
    ),
    ("a shiba inu 🐕", "64 557 34938 304 84 11162 238 243", None),
    ("😀👍🏽", "141334 144349 145375", None),
    ("90*90", "24 15 9 24 15", None),
    ("68*120", "21 23 9 16 17 15", None),
    (
        "In 2024, GDP grew 3.14%",
        "641 220 17 15 17 19 11 29730 13938 220 18 13 16 19 4",
        None,
    ),
    ("  two  spaces  ", "220 1378 220 12621 256", None),
    ("\n\n", "271", None),
    (
        "line1\n\nline2\r\n\tx",
        "1056 16 271 1056 17 319 10225",
        "1056 16 198 198 1056 17 319 197 87",
    ),
    ("(hello) [world]", "3203 4791 8 508 14615 60", "7 14990 8 508 14615 60"),
    ("e\u0301clair", "963 48172", "68 53839 48172"),
    ("foo.bar_baz/qux", "7975 22001 880 1370 78845 87", "7975 13 2257 62 42573 14 446 87"),
    ("hello.\n\nWorld", "14990 382 10134", "14990 13 198 198 10134"),
    ("I'LL we've DON'T", "40 6 4086 582 3003 44273 17323", "40 6 4086 582 3003 44273 6 51"),
    (
        "def f(x):\n    return x*2\n",
        "750 282 2075 982 262 470 856 9 17 198",
        "750 282 7 87 1648 198 262 470 856 9 17 198",
    ),
    ("naïve café ＦＵＬＬ", "3376 37572 586 51950 62823 99 144095 143090 143090", None),
    ("\u3000全角空格", "22441 35987 63836 34794 33983", None),
    ("<|im_start|>user\nhi<|im_end|>", "151644 872 198 6023 151645", None),
    ("١٢٣", "149 94 149 95 149 96", None),
    (" ", "220", None),
    ("", "", None),
    (
        IMAGE,
        "151852 21 19 9 21 19 151851 151854 163782 151846 184621 151846 151847 151853 151850",
        None,
    ),
    ("<|visual token 032768|>", "27 91 29218 3950 220 15 18 17 22 21 23 91 29", None),
    ("<image>", "27 1805 29", "151646"),
    ("Hello<|endoftext|>World", "9707 151643 10134", None),
    (
        NEGATIVE,
        "10303 416 11 3873 61590 11 3873 6078 11 1467 11 1465 11 7402 19225 11 4960 15723 11 16745 "
        "18509 11 60143 11 11785 4271 11 3347 4271 11 4622 4271 11 54566 35036 11 11957 11 88006 "
        "11 5934 11 99055 13",
        None,
    ),
]


def _ids(text: str) -> list[int]:
    return [int(part) for part in text.split()]


ROWS = [(text, _ids(baai), _ids(baai if hf is None else hf)) for text, baai, hf in _ROWS]
