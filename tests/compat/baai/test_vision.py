"""BAAI's vision tokenizer class: golden codes, and what no argument may change."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dromaius import errors
from dromaius.compat.baai import AutoModel, Emu3VisionVQConfig, Emu3VisionVQModel
from tests.compat.conftest import Checkpoints, baai_name
from tests.tiny import fill

PARAMETERS, TENSORS = 270_740_287, 495


@pytest.fixture(scope="module")
def golden() -> Emu3VisionVQModel:
    """The model of spec section 8, V1: filled under transformers' names, read under BAAI's."""
    from transformers import Emu3VQVAEConfig
    from transformers.models.emu3.modeling_emu3 import Emu3VQVAE

    sizes = {"codebook_size": 512, "num_res_blocks": 2, "attn_resolutions": [3]}
    theirs = fill(
        Emu3VQVAE(
            Emu3VQVAEConfig(
                base_channels=32, channel_multiplier=[1, 1, 2, 2], hidden_size=64, **sizes
            )
        ),
        2,
        2.0,
    )
    ours = Emu3VisionVQModel(Emu3VisionVQConfig(ch=32, ch_mult=[1, 1, 2, 2], **sizes))
    state = {baai_name(name): tensor for name, tensor in theirs.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    ours.load_state_dict({name: tensor.view(shapes[name]) for name, tensor in state.items()})
    return ours


def digest(codes: torch.Tensor) -> str:
    return hashlib.sha256(codes.contiguous().numpy().tobytes()).hexdigest()[:16]


def test_golden_codes(golden: Emu3VisionVQModel) -> None:
    generator = torch.Generator().manual_seed(100)
    images = torch.rand(2, 3, 48, 64, generator=generator) * 2 - 1
    video = torch.rand(1, 8, 3, 32, 32, generator=generator) * 2 - 1
    codes, clips = golden.encode(images), golden.encode(video)
    assert codes.shape == (2, 6, 8) and digest(codes) == "e2cb45fd1277bc55"
    assert clips.shape == (1, 2, 4, 4) and digest(clips) == "3b0e3b1a05fa2a15"
    pixels, frames = golden.decode(codes), golden.decode(clips)
    expected = torch.tensor([0.97055, -0.3834, 0.25005])
    assert torch.allclose(pixels[0, :, 0, 0], expected, atol=1e-3)
    expected = torch.tensor([4.61712, 1.45011, 4.09034, 6.55643, 4.98906, 6.74589, 16.65728])
    assert torch.allclose(frames[0, :7, 0, 5, 5], expected, atol=1e-3)
    assert torch.equal(golden(images), pixels)


def test_published_size() -> None:
    with torch.device("meta"):
        model = Emu3VisionVQModel(Emu3VisionVQConfig())
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS
    assert len(model.state_dict()) == TENSORS
    assert model.spatial_scale_factor == 8 and model.temporal_scale_factor == 4
    assert model.config.temporal_downsample_factor == 4


def test_stays_float32_and_frozen(checkpoints: Checkpoints, parts: SimpleNamespace) -> None:
    images = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = parts.vision.encode(images)
    errors.warn_once.cache_clear()
    with pytest.warns(UserWarning, match="stays float32") as caught:
        model = AutoModel.from_pretrained(checkpoints.baai_vq, torch_dtype=torch.bfloat16)
    assert len(caught) == 1
    for changed in (model, model.to(torch.bfloat16), model.half(), model.train(), model.eval()):
        assert changed.dtype == torch.float32 and not changed.training
        assert torch.equal(changed.encode(images), expected)
        assert torch.equal(changed.encode(images.to(torch.float64)), expected)
    assert not model.decode(expected).requires_grad
    assert model.device == torch.device("cpu")


def test_every_layout_gives_the_same_codes(
    checkpoints: Checkpoints, parts: SimpleNamespace, tmp_path: Path
) -> None:
    images = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    expected = parts.vision.encode(images)
    parts.vision.save_pretrained(tmp_path)
    for source in (checkpoints.hf, str(checkpoints.baai_vq), tmp_path):
        model = AutoModel.from_pretrained(source, device_map="cpu", trust_remote_code=True)
        assert isinstance(model, Emu3VisionVQModel)
        assert torch.equal(model.encode(images), expected)
    assert len(expected.unique()) > 3


def test_fresh_weights_are_usable() -> None:
    torch.manual_seed(0)
    config = Emu3VisionVQConfig(ch=32, ch_mult=[1, 1], num_res_blocks=1, attn_resolutions=[])
    model = Emu3VisionVQModel(config)
    assert model.quantize.embedding.weight.abs().max() <= 1 / 32768  # as the released code
    assert model.decode(model.encode(torch.rand(1, 3, 8, 8))).isfinite().all()
