"""Where a model's files are: the embedded one, a folder, or a Hugging Face repository."""

import re
from importlib import resources
from pathlib import Path

from dromaius.errors import CheckpointError

EMBEDDED = ("nano",)
# weights, configurations and tokenizers; never a repository's code
PATTERNS = ["*.json", "*.safetensors", "*.bin", "*.tiktoken", "*.txt", "*.jinja", "*.model"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(source: str | Path, revision: str | None = None) -> Path:
    """Returns the local folder of a model.

    source: "nano" (embedded in the package), a folder, or a hub id "owner/name", which is
    downloaded unless the local cache already has it (with HF_HUB_OFFLINE=1 only the cache is used).
    Raises CheckpointError in one line that names the source and what was tried.
    """
    return local_folder(source) or _download(str(source), revision, PATTERNS)


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
