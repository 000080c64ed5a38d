"""Labels behind left padding: the first is predicted at a row that sees nothing, as upstream."""

import pytest
import torch
from transformers import Emu3TextConfig
from transformers.models.emu3.modeling_emu3 import Emu3ForCausalLM

from dromaius.compat import transformers as ours
from tests.tiny import fill

SIZES = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GOLDEN_LOSS = 6.036544  # spec section 8, V2: attention "eager"


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_loss_behind_left_padding(attention: str) -> None:
    reference = fill(Emu3ForCausalLM(Emu3TextConfig(**SIZES, attn_implementation=attention)), 1)
    model = ours.Emu3ForCausalLM(ours.Emu3TextConfig(**SIZES, attn_implementation=attention)).eval()
    model.load_state_dict(reference.state_dict())
    ids = torch.randint(3, 256, (2, 16), generator=torch.Generator().manual_seed(200))
    mask = torch.ones_like(ids)
    ids[0, :5] = mask[0, :5] = 0
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    given = dict(attention_mask=mask, position_ids=positions)
    given["labels"] = ids.masked_fill(mask == 0, -100)
    with torch.no_grad():
        theirs, mine = reference(ids, **given), model(ids, **given)
    assert abs(mine.loss - theirs.loss) <= 1e-4
    if attention == "eager":
        assert abs(mine.loss.item() - GOLDEN_LOSS) <= 1e-4
    assert (mine.logits - theirs.logits).abs().max() <= 1e-4
