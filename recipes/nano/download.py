"""npm packages over plain HTTPS: checksummed, cached, never half-written."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from sources import Package

PUBLIC_REGISTRY = "https://registry.npmjs.org/"
MAX_BYTES = 64 * 2**20  # the largest pinned package is 16 MB
MAX_MEMBER_BYTES = 256 * 2**20  # the largest file inside one is 77 MB of JSON
CHUNK = 2**18
ATTEMPTS = 3


class DownloadError(RuntimeError):
    """A package could not be had, or is not the pinned one."""


def registry() -> str:
    """The npm registry this machine is set up for, with a slash at the end.

    Order: `npm config get registry` where npm is installed, then the environment variable
    NPM_CONFIG_REGISTRY, then the public registry.
    """
    found = os.environ.get("NPM_CONFIG_REGISTRY", "")
    if shutil.which("npm"):
        asked = subprocess.run(
            ["npm", "config", "get", "registry"], capture_output=True, text=True, timeout=60
        )
        if asked.returncode == 0 and asked.stdout.strip().startswith("http"):
            found = asked.stdout.strip()
    return (found or PUBLIC_REGISTRY).rstrip("/") + "/"


def tarball_url(package: Package, base: str) -> str:
    """Address of a package's tarball below the registry `base`."""
    short = package.name.rsplit("/", 1)[-1]
    return f"{base}{package.name}/-/{short}-{package.version}.tgz"


def integrity_of(path: Path) -> str:
    """The file's checksum in npm's form, "sha512-<base64>"."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    return "sha512-" + base64.b64encode(digest).decode()


def fetch(
    package: Package,
    folder: Path,
    base: str,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> Path:
    """Path of the package's tarball in `folder`, downloaded only when it is not there yet.

    `on_bytes` is told the size of each piece as it arrives. Raises DownloadError when the
    registry does not answer or the file's checksum is not the pinned one; then nothing is left.
    """
    name = f"{package.name.lstrip('@').replace('/', '-')}-{package.version}.tgz"
    path = folder / name
    if path.exists() and integrity_of(path) == package.integrity:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _download(package, tarball_url(package, base), path, on_bytes)
            return path
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            if attempt == ATTEMPTS:
                raise DownloadError(f"{package.name}@{package.version}: {error}") from error
    raise AssertionError("unreachable")


def _download(package: Package, url: str, path: Path, on_bytes: Callable[[int], None]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".part")
    partial = Path(temporary)
    try:
        with os.fdopen(handle, "wb") as file, urllib.request.urlopen(url, timeout=60) as answer:
            total = 0
            while piece := answer.read(CHUNK):
                total += len(piece)
                if total > MAX_BYTES:
                    raise DownloadError(f"{package.name}: larger than {MAX_BYTES} bytes")
                file.write(piece)
                on_bytes(len(piece))
        found = integrity_of(partial)
        if found != package.integrity:
            raise DownloadError(
                f"{package.name}@{package.version}: checksum {found}, expected {package.integrity}"
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def members(tarball: Path, prefix: str = "", suffix: str = "") -> Iterator[tuple[str, bytes]]:
    """(path inside the package, content) of the files with that beginning and ending.

    Read straight from the tarball, nothing is unpacked to disk.
    """
    with tarfile.open(tarball, "r:gz") as archive:
        for entry in archive:
            name = entry.name.partition("/")[2]  # every npm tarball starts with "package/"
            if not (entry.isfile() and name.startswith(prefix) and name.endswith(suffix)):
                continue
            if entry.size > MAX_MEMBER_BYTES:
                raise DownloadError(f"{tarball.name}: {name} is over {MAX_MEMBER_BYTES} bytes")
            content = archive.extractfile(entry)
            assert content is not None  # isfile() was true
            yield name, content.read()
