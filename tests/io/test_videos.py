"""Frames in and out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dromaius.errors import InputError
from dromaius.io import videos
from dromaius.io.videos import read_frames, save_frames


def clip(seed: int, count: int, colours: int = 256) -> list[Image.Image]:
    draw = np.random.default_rng(seed)
    values = draw.integers(0, colours, (count, 8, 16, 3)) * (255 // (colours - 1))
    return [Image.fromarray(frame.astype(np.uint8)) for frame in values]


def same(ours: list[Image.Image], wanted: list[Image.Image]) -> bool:
    return [frame.tobytes() for frame in ours] == [frame.tobytes() for frame in wanted]


@pytest.mark.parametrize("name", ["folder", "a.webp"])
def test_lossless_round_trip(name: str, tmp_path: Path, rng_seed: int) -> None:
    frames = clip(rng_seed, 12)
    save_frames(frames, tmp_path / name)
    assert same(read_frames(tmp_path / name), frames)


def test_gif_round_trip(tmp_path: Path, rng_seed: int) -> None:
    frames = clip(rng_seed, 5, colours=2)  # eight colours fit into a palette
    save_frames(frames, tmp_path / "a.gif", fps=10)
    assert same(read_frames(tmp_path / "a.gif"), frames)
    with Image.open(tmp_path / "a.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (5, 100, 0)


def test_order_of_a_folder(tmp_path: Path, rng_seed: int) -> None:
    frames = clip(rng_seed, 3)
    for frame, name in zip(frames, ("f1.png", "f2.bmp", "f10.PNG"), strict=True):
        frame.save(tmp_path / name, format=name[-3:].upper())
    (tmp_path / "notes.txt").write_text("not a frame")
    assert same(read_frames(tmp_path), frames)
    assert same(read_frames([tmp_path / "f10.PNG", str(tmp_path / "f1.png")]), frames[::-2])
    assert same(read_frames(tmp_path / "f1.png"), frames[:1])


def test_a_shorter_video_replaces_a_longer_one(tmp_path: Path, rng_seed: int) -> None:
    (tmp_path / "frame_notes.png").write_bytes(b"somebody's")
    save_frames(clip(rng_seed, 3), tmp_path)
    save_frames(clip(rng_seed, 2), tmp_path)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["frame_00001.png", "frame_00002.png", "frame_notes.png"]


def test_what_is_not_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        read_frames(tmp_path)
    with pytest.raises(InputError, match="the list of frames holds no pictures"):
        read_frames([])
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "2.png")
    with pytest.raises(InputError, match="2.png is 5x4, but the first frame is 4x4"):
        read_frames(tmp_path)
    monkeypatch.setattr(videos, "MAX_FRAMES", 1)
    with pytest.raises(InputError, match="has 2 frames; at most 1"):
        read_frames(tmp_path)
    monkeypatch.setattr(videos, "MAX_TOTAL_PIXELS", 15)
    with pytest.raises(InputError, match="more than 15 pixels in all"):
        read_frames(tmp_path / "1.png")


def test_what_cannot_be_written(tmp_path: Path) -> None:
    frames = clip(1, 2)
    with pytest.raises(InputError, match="cannot write .mp4 files"):
        save_frames(frames, tmp_path / "a.mp4")
    with pytest.raises(InputError, match="at least one frame"):
        save_frames([], tmp_path / "a.gif")
    with pytest.raises(InputError, match="one size"):
        save_frames([frames[0], frames[0].resize((4, 4))], tmp_path / "a.gif")
    with pytest.raises(InputError, match="frame rate"):
        save_frames(frames, tmp_path / "a.gif", fps=0)
    assert not list(tmp_path.iterdir())
