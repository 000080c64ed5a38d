"""User text never becomes a special token; any text survives encode and decode."""

import random
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import regex

from dromaius.errors import InputError
from dromaius.tokenizers.bpe import BpeTokenizer
from dromaius.tokenizers.convert import hf_form, train_bpe
from dromaius.tokenizers.text import TextTokenizer
from dromaius.tokenizers.tiktoken import TiktokenTokenizer, vision_names

# Emu3's rule of cutting, written out again (spec: emu3.md, section 3.1)
CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LOOKALIKES = [
    "<|endoftext|>",
    "<|image start|>64*64<|image token|><|visual token 000000|>",
    "<|<|endoftext|>|>",
    "<|end<|endoftext|>oftext|>",
    "a<|extra_203|>b",
    " <|extra_204|> \n",
    "<|visual token 000001|><|visual token 000001|>",
    "<image>",
    "<ima<image>ge>",
    "＜|endoftext|＞<|endoftext|>",  # full-width brackets beside the real name
    "<|image\u00a0start|>",
    "<|endoftext\u0338|>",  # NFC joins the stroke to nothing, but must be tried
    ">\u0338<|image end|>\u0338",  # NFC turns > + U+0338 into one character
    "\ud800<|endoftext|>",  # a lone surrogate
]


def reference_ids(text: str, pieces: list[bytes]) -> list[int]:
    """Byte-pair encoding as the textbook has it, one merge at a time."""
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    ids: list[int] = []
    for word in regex.findall(CUT, unicodedata.normalize("NFC", text)):
        parts = [bytes([value]) for value in word.encode()]
        while True:
            found = [
                (ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks
            ]
            if not found:
                break
            _, index = min(found)
            parts[index : index + 2] = [parts[index] + parts[index + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def random_texts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    words = ["the red apple", "He'll", "DON'T", "foo.bar_baz/qux", "\r\n", "\n\n", "  ", "\t", "é"]
    words += ["e\u0301", "请描述", "🐕", "👍🏽", "½", "Ⅷ", "\u3000", "1234", "<|image start|>"]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(0, 12)):
            if draw.random() < 0.6:
                parts.append(draw.choice(words))
            else:
                point = draw.choice([draw.randrange(128), draw.randrange(0x110000)])
                parts.append(chr(point) if not 0xD800 <= point < 0xE000 else "\ud800")
        texts.append("".join(parts))
    return texts


@pytest.fixture(scope="module")
def forms(small: TiktokenTokenizer) -> dict[str, TextTokenizer]:
    return {
        "tiktoken": small,
        "exact": hf_form(small),
        "published": hf_form(small, "published"),
        "trained": train_bpe(["the red apple"] * 9, 300, ["<image>", *small.special_tokens]),
    }


@pytest.mark.parametrize("form", ["tiktoken", "exact", "published", "trained"])
def test_no_text_yields_a_special_id(
    form: str, forms: dict[str, TextTokenizer], rng_seed: int
) -> None:
    tokenizer = forms[form]
    special = set(tokenizer.special_tokens.values())
    texts = list(LOOKALIKES)
    draw = random.Random(rng_seed)
    for name in tokenizer.special_tokens:
        other = draw.choice(list(tokenizer.special_tokens))
        cut = draw.randrange(1, len(name))
        texts += [name, f"a{name}b", f" {name}{other}", name[:cut] + other + name[cut:]]
    for text in texts:
        ids = tokenizer.encode(text)
        assert not special.intersection(ids), text
        shown = text.replace("\ud800", "\ufffd")
        if form != "published":
            shown = unicodedata.normalize("NFC", shown)
        assert tokenizer.decode(ids) == shown
        assert tokenizer.decode(ids, skip_special_tokens=False) == shown


def test_a_name_is_parsed_only_on_request(forms: dict[str, TextTokenizer]) -> None:
    for form, tokenizer in forms.items():
        forged = tokenizer.special_tokens["<|image start|>"]
        assert tokenizer.encode_with_special("a<|image start|>")[-1] == forged, form
        assert forged not in tokenizer.encode("a<|image start|>"), form


def test_ids_follow_the_textbook(
    small: TiktokenTokenizer, forms: dict[str, TextTokenizer], rng_seed: int
) -> None:
    exact = forms["exact"]
    for text in random_texts(rng_seed, 400):
        text = text.replace("\ud800", "\ufffd")
        expected = reference_ids(text, small.pieces)
        assert small.encode(text) == expected, repr(text)
        assert exact.encode(text) == expected, repr(text)


def test_both_forms_agree_on_the_real_vocabulary(
    real: TiktokenTokenizer, exact: BpeTokenizer, rng_seed: int
) -> None:
    for text in random_texts(rng_seed + 1, 2000):
        ids = real.encode(text)
        assert exact.encode(text) == ids, repr(text)
        assert max(ids, default=0) < 151643
        shown = unicodedata.normalize("NFC", text.replace("\ud800", "\ufffd"))
        assert real.decode(ids) == exact.decode(ids) == shown


def test_random_ids_decode_alike(small: TiktokenTokenizer, rng_seed: int) -> None:
    draw = random.Random(rng_seed)
    exact = hf_form(small)
    for _ in range(200):
        ids = [draw.randrange(small.vocab_size + 5) for _ in range(draw.randrange(12))]
        assert small.decode(ids) == exact.decode(ids)
    with pytest.raises(InputError, match="id 999999 is not in the tokenizer's vocabulary"):
        small.decode([999999], skip_special_tokens=False)
    with pytest.raises(InputError, match="id 999999"):
        exact.decode([999999], skip_special_tokens=False)


def test_special_even_when_the_file_says_otherwise(small: TiktokenTokenizer) -> None:
    """A file may mark added tokens special=false, add a BOS, cut texts short, or skip merges."""
    definition = dict(hf_form(small).definition)
    definition["added_tokens"] = [
        added | {"special": False, "normalized": True} for added in definition["added_tokens"]
    ]
    bos = small.special_tokens["<|extra_203|>"]
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "B", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"B": {"id": "B", "ids": [bos], "tokens": ["<|extra_203|>"]}},
    }
    definition["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    definition["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    definition["model"] = definition["model"] | {"ignore_merges": True}
    tokenizer = BpeTokenizer.from_definition(definition)
    for name in tokenizer.special_tokens:
        ids = tokenizer.encode(name)
        assert ids
        assert not set(tokenizer.special_tokens.values()).intersection(ids)
        assert tokenizer.decode(ids) == name
    assert tokenizer.encode_with_special("<|extra_204|>" * 3) == [bos + 1] * 3


def test_bounds_on_text(forms: dict[str, TextTokenizer]) -> None:
    for tokenizer in forms.values():
        with pytest.raises(InputError, match="run of more than 100000 spaces"):
            tokenizer.encode("a" + " " * 100_001)
        with pytest.raises(InputError, match="4000001 characters"):
            tokenizer.encode("a" * 4_000_001)
        with pytest.raises(InputError, match="must be a str, not bytes"):
            tokenizer.encode(b"a")  # type: ignore[arg-type]
        assert tokenizer.decode(tokenizer.encode(" " * 100_000)) == " " * 100_000


def test_threads_share_a_tokenizer(small: TiktokenTokenizer, rng_seed: int) -> None:
    texts = random_texts(rng_seed, 50)
    definition = hf_form(small).definition
    for tokenizer in (small, BpeTokenizer.from_definition(definition)):
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(tokenizer.encode_with_special, texts))
        assert together == [tokenizer.encode_with_special(text) for text in texts]


def test_trained_tokenizer(rng_seed: int, tmp_path: Path) -> None:
    texts = ["a red apple", "a green apple", "a red car", "一个红苹果", "cafe\u0301"] * 5
    names = ["<|endoftext|>", "<|image start|>", *vision_names(4)[3:]]
    tokenizer = train_bpe(iter(texts), 280, names)
    ordinary = tokenizer.vocab_size - len(names)
    assert 256 < ordinary <= 280
    assert tokenizer.special_tokens == {name: ordinary + i for i, name in enumerate(names)}
    assert len(tokenizer.encode(" apple")) == 1
    assert tokenizer.encode("café") == tokenizer.encode("cafe\u0301")
    tokenizer.save(tmp_path)
    again = BpeTokenizer(tmp_path / "tokenizer.json")
    for text in random_texts(rng_seed, 200):
        shown = unicodedata.normalize("NFC", text.replace("\ud800", "\ufffd"))
        assert again.decode(again.encode(text)) == shown
        assert again.encode(text) == tokenizer.encode(text)
    assert train_bpe(texts, 280, names).definition == tokenizer.definition
