"""The gated MLP gives the numbers of transformers' layer, for every activation it knows."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaMLP

from dromaius.nn.mlp import ACTIVATIONS, GatedMLP
from tests.tiny import fill


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_equals_llama(act: str, bias: bool, rng_seed: int) -> None:
    config = LlamaConfig(
        hidden_size=12, intermediate_size=20, num_attention_heads=2, hidden_act=act, mlp_bias=bias
    )
    reference = fill(LlamaMLP(config), rng_seed)
    mlp = GatedMLP(12, 20, act, bias)
    mlp.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(rng_seed)) * 2
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), reference(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_activation_is_the_one_of_that_name(act: str) -> None:
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(ACTIVATIONS[act](x), ACT2FN[act](x), rtol=0, atol=1e-5)
