"""Text tokenizer over a `tokenizer.json` of the `tokenizers` library (byte-pair encoding only).

The library looks for added tokens inside any text it encodes. User text must never become one, so
`encode` uses a copy of the definition that has no added tokens at all; only `encode_with_special`
builds the full one.
"""

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from dromaius.errors import CheckpointError
from dromaius.files import read_bytes, write_text
from dromaius.tokenizers.text import checked_text, unknown_id

DEFINITION_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
MAX_FILE_BYTES = 256 * 2**20


class BpeTokenizer:
    """Any byte-pair tokenizer.json. Every added token of the file counts as special.

    Safe to share between threads.
    """

    def __init__(self, path: Path) -> None:
        """Reads tokenizer.json at `path`, and the tokenizer_config.json beside it when present.

        Raises CheckpointError naming the file when it is damaged or not a byte-pair tokenizer.
        """
        path = Path(path)
        config = path.with_name(CONFIG_FILE)
        self._setup(_read_json(path), _read_json(config) if config.is_file() else None, str(path))

    @classmethod
    def from_definition(
        cls, definition: dict[str, Any], config: dict[str, Any] | None = None
    ) -> "BpeTokenizer":
        """Makes a tokenizer of a parsed tokenizer.json and (optional) tokenizer_config.json."""
        tokenizer = cls.__new__(cls)
        tokenizer._setup(definition, config, DEFINITION_FILE)
        return tokenizer

    def _setup(
        self, definition: dict[str, Any], config: dict[str, Any] | None, source: str
    ) -> None:
        self.definition = definition
        self.config = config
        self._source = source
        try:
            kind = definition["model"].get("type", "BPE")
            if kind != "BPE":
                raise CheckpointError(f"{source} is a {kind} tokenizer; only BPE is supported")
            added = sorted((int(a["id"]), str(a["content"])) for a in definition["added_tokens"])
            ids = [int(i) for i in definition["model"]["vocab"].values()]
            self.special_tokens: dict[str, int] = {name: i for i, name in added}
            self.vocab_size = max([*ids, *self.special_tokens.values()]) + 1
            self._plain = Tokenizer.from_str(json.dumps(_without_added_tokens(definition)))
        except CheckpointError:
            raise
        except Exception as error:  # `tokenizers` raises bare Exception for a bad definition
            raise CheckpointError(f"{source} is not a tokenizer definition: {error}") from error
        self._names = {i: name for name, i in self.special_tokens.items()}

    @cached_property
    def _full(self) -> Tokenizer:
        full = Tokenizer.from_str(json.dumps(self.definition))
        full.no_truncation()
        full.no_padding()
        return full

    def encode(self, text: str) -> list[int]:
        """Returns the ids of ordinary text; a special token's name in it is ordinary text too.

        No BOS is added, whatever post-processor the file defines.
        """
        return self._plain.encode(checked_text(text), add_special_tokens=False).ids

    def encode_with_special(self, text: str) -> list[int]:
        """Returns the ids with special names parsed, as upstream does. Not for user text."""
        return self._full.encode(checked_text(text), add_special_tokens=False).ids

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Joins the bytes of the ids; see `TextTokenizer.decode`."""
        known = [int(i) for i in ids]
        if skip_special_tokens:
            return self._plain.decode([i for i in known if self._is_text(i)])
        parts: list[str] = []
        run: list[int] = []
        for token_id in known:
            if self._is_text(token_id):
                run.append(token_id)
                continue
            if token_id not in self._names:
                raise unknown_id(token_id, self.vocab_size)
            parts += [self._plain.decode(run), self._names[token_id]]
            run = []
        return "".join([*parts, self._plain.decode(run)])

    def _is_text(self, token_id: int) -> bool:
        if not 0 <= token_id < self.vocab_size or token_id in self._names:
            return False
        return self._plain.id_to_token(token_id) is not None

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, and tokenizer_config.json when there is one, into `folder`."""
        folder = Path(folder)
        write_text(folder / DEFINITION_FILE, json_text(self.definition))
        if self.config is not None:
            write_text(folder / CONFIG_FILE, json_text(self.config))


def json_text(value: Any) -> str:
    """The JSON form in which the tokenizer files are written."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_bytes(path, MAX_FILE_BYTES, CheckpointError))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not valid JSON") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return value


def _without_added_tokens(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition for user text: no added token can be parsed, merged or looked up.

    Truncation, padding and the post-processor go too: `encode` returns the ids of all its text.
    """
    model = definition["model"]
    names = {added["content"] for added in definition["added_tokens"]}
    removed = names - {model.get("unk_token")}  # the mark of unknown characters must stay known
    plain_model = dict(model)
    plain_model["vocab"] = {t: i for t, i in model["vocab"].items() if t not in removed}
    plain_model["merges"] = [m for m in model["merges"] if not names.intersection(_result(m))]
    return definition | {
        "added_tokens": [],
        "model": plain_model,
        "truncation": None,
        "padding": None,
        "post_processor": None,
    }


def merge_pair(merge: str | list[str]) -> tuple[str, str]:
    """The two halves of a merge, which files write as "a b" or as ["a", "b"]."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _result(merge: str | list[str]) -> tuple[str, str, str]:
    left, right = merge_pair(merge)
    return left, right, left + right
