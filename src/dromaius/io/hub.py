"""Where a model's files are: the embedded one, a folder, or a Hugging Face repository."""

import re
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path

from dromaius.errors import CheckpointError

EMBEDDED = ("nano", "nano-reader", "nano-captioner")
# configurations and tokenizers; never a repository's code
SETTINGS = ["*.json", "*.tiktoken", "*.txt", "*.jinja", "*.model"]
PATTERNS = [*SETTINGS, "*.safetensors", "*.bin"]
# one model's weights in the files of several frameworks: the first kind that is there is enough
_KINDS = {
    "*.safetensors": "model*.safetensors",
    "*.bin": "pytorch_model*.bin",
    "*.h5": "tf_model*.h5",
    "*.msgpack": "flax_model*.msgpack",
}
"""What is fetched -> what a repository that has it calls it."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """Returns the local folder of a model.

    source: a name of EMBEDDED (in the package), a folder, or a hub id "owner/name", which is
    downloaded unless the local cache already has it (with HF_HUB_OFFLINE=1 only the cache is used).
    Raises CheckpointError in one line that names the source and what was tried.
    """
    here = local_folder(source)
    return here or _download(str(source), revision, _patterns(str(source), revision))


def resolve_settings(source: str | Path, revision: str | None = None) -> Path:
    """As `resolve`, but of a hub id's files only the configurations are sure to be there."""
    return local_folder(source) or _download(str(source), revision, ["*.json"])


def local_folder(source: str | Path) -> Path | None:
    """The folder of a model that is here; None for a hub id, which `resolve` looks up.

    Raises CheckpointError for what is neither.
    """
    if not str(source):
        raise CheckpointError(f"no model at {source!r}: the name is empty")
    if str(source) in EMBEDDED and not isinstance(source, Path):
        folder = Path(str(resources.files("dromaius"))) / "assets" / str(source)
        if not folder.is_dir():
            raise CheckpointError(f"the embedded model {source!r} is not installed at {folder}")
        return folder
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{source} is a file; a model is a folder or a hub id 'owner/name'")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        names = ", ".join(repr(name) for name in EMBEDDED)
        raise CheckpointError(
            f"no model at {str(source)!r}: not a folder, not an embedded model ({names}), "
            "not a hub id 'owner/name'"
        )
    return None


def _patterns(repository: str, revision: str | None) -> list[str]:
    """What to fetch: many repositories hold the same weights two to four times."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return PATTERNS
    try:
        names = HfApi().list_repo_files(repository, revision=revision)
    except Exception:  # the download that follows says what is wrong, or finds it in the cache
        return PATTERNS
    for pattern, name in _KINDS.items():
        if any(fnmatch(file, name) and "/" not in file for file in names):
            return [*SETTINGS, pattern]
    return PATTERNS


def _download(repository: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=patterns)
    except Exception as problem:  # the hub client raises many kinds: no network, no such id, ...
        try:
            folder = snapshot_download(
                repository, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        except Exception:
            reason = type(problem).__name__
            raise CheckpointError(
                f"no model at {repository!r}: there is no such folder, it is not in the local hub "
                f"cache, and it could not be downloaded ({reason})"
            ) from problem
    return Path(folder)
