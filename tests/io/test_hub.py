"""Where models are found. No test reaches the network."""

from pathlib import Path

import pytest

from dromaius.errors import CheckpointError
from dromaius.io import hub
from dromaius.io.hub import resolve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline."""
    import huggingface_hub.constants as constants

    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(folder))
    return folder


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path
    (tmp_path / "nano").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve(Path("nano")) == Path("nano")  # a Path is always a folder
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert resolve("org/name") == Path("org/name")  # a folder wins over a hub id


def test_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.resources, "files", lambda package: tmp_path / package)
    with pytest.raises(CheckpointError, match="'nano' is not installed"):
        resolve("nano")
    (tmp_path / "dromaius" / "assets" / "nano").mkdir(parents=True)
    assert resolve("nano") == tmp_path / "dromaius" / "assets" / "nano"


@pytest.mark.parametrize("source", ["nanoo", "a/b/c", "./org/name", "", "../x", "org/na me"])
def test_neither_folder_nor_id(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no model at|is a folder") as caught:
        assert resolve(source) == Path("never")
    assert repr(source) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file; a model is a folder or a hub id"):
        resolve(str(tmp_path / "model.safetensors"))


def test_offline_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="'BAAI/Emu3-Gen'.*not in the local hub cache") as e:
        resolve("BAAI/Emu3-Gen")
    assert "\n" not in str(e.value)
    repository = cache / "models--BAAI--Emu3-Gen"
    commit = "0123456789012345678901234567890123456789"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert resolve("BAAI/Emu3-Gen") == snapshot


def test_code_is_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fnmatch import fnmatch

    asked: list[list[str]] = []

    def download(repository: str, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve("org/some-model") == tmp_path
    allowed = [
        name
        for name in ("modeling_emu3.py", "x.pkl", "config.json", "model-00001-of-00007.safetensors")
        + ("emu3.tiktoken", "emu3_vision_tokens.txt", "pytorch_model.bin", "setup.sh")
        if any(fnmatch(name, pattern) for pattern in asked[0])
    ]
    assert allowed == [
        "config.json",
        "model-00001-of-00007.safetensors",
        "emu3.tiktoken",
        "emu3_vision_tokens.txt",
        "pytorch_model.bin",
    ]


@pytest.mark.parametrize(
    ("held", "fetched"),
    [
        (("model.safetensors", "pytorch_model.bin", "tf_model.h5"), {"model.safetensors"}),
        (("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"), {"pytorch_model.bin"}),
        (("tf_model.h5", "flax_model.msgpack"), {"tf_model.h5"}),
        (("flax_model.msgpack",), {"flax_model.msgpack"}),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tf_model.h5"),
            {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
        ),
        (("weights.bin", "extra.safetensors"), {"weights.bin", "extra.safetensors"}),
    ],
)
def test_one_frameworks_weights_are_fetched(
    held: tuple[str, ...], fetched: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repositories such as nlpconnect/vit-gpt2-image-captioning hold the same gigabyte twice."""
    from fnmatch import fnmatch

    import huggingface_hub.constants as constants

    asked: list[list[str]] = []

    def download(repository: str, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    files = [*held, "config.json", "onnx/model.onnx", "modeling.py"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", lambda *a, **k: files)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve("org/some-model") == tmp_path
    taken = {name for name in files if any(fnmatch(name, pattern) for pattern in asked[0])}
    assert taken == fetched | {"config.json"}
