"""The same model without PyTorch: one forward for NumPy, JAX and TensorFlow.

```python
from dromaius.models.vision_encoder_decoder import arrays

xp = arrays.namespace("jax")  # or "numpy", "tensorflow"
config, params = arrays.load(folder)  # config.json and model.safetensors
params = arrays.place(xp, params)
logits = arrays.forward(xp, config, params, pixels, ids)
text = arrays.generate(xp, config, params, pixels, num_beams=4)  # .sequences, .scores
```

Shapes: B images, S image tokens, E encoder channels, T text tokens, V vocabulary.

- `namespace(name)`: the operations, made of one framework. ImportError names the extra it needs.
- `config`: the content of config.json as a dict: `encoder` and `decoder` with their `model_type`,
  and the whole's ids. Left-out values are transformers' defaults. Never changed here.
- `params`: `{name: array}`, flat. The names are those on disk (`encoder.embeddings.cls_token`,
  `decoder.transformer.h.0.attn.c_attn.weight`), orientation too; `tree` and `flat` turn them into
  nested dicts and back. Arrays are the framework's own (for TensorFlow also variables); a flat dict
  is a pytree, so `jax.grad` and `GradientTape` go over it as it is.
- `encode(xp, config, params, pixels [B, C, H, W]) -> [B, S, E]`: the encoder's last hidden state.
- `decode(xp, config, params, hidden [B, S, E], ids [B, T], mask=None [B, T],
  hidden_mask=None [B, S]) -> logits [B, T, V]`: projects and decodes, without cache.
- `forward(xp, config, params, pixels, ids, mask=None) -> logits`: both.
- `shift_right(xp, labels, start, pad) -> ids`; `loss(xp, logits, labels) -> scalar`: mean
  cross-entropy in float32 over labels other than -100.
- `generate(xp, config, params, pixels=None, *, hidden=None, hidden_mask=None, prompt=None,
  generation=None, **settings) -> Generated(sequences [B * R, L], scores [B * R])`: greedy or beam
  search with a cache. Settings are fields of `Settings`, found in the arguments, else in
  `generation` (the content of generation_config.json), else in the config. Compiled under JAX.
- `Settings.of(config, generation=None, **settings)`: the same, resolved.
- `new(config, seed=0) -> params`: random NumPy arrays; `tensors(config) -> {name: shape}`.
- `load(folder) -> (config, params)` and `save(folder, config, params)`: NumPy arrays, no PyTorch.
- `check(config, params)`: CheckpointError for a tensor that is missing or of the wrong shape.

The forward has no dropout: it is the evaluation mode of PyTorch's, in training too.
"""

from dromaius.models.vision_encoder_decoder.arrays.generate import Generated, generate
from dromaius.models.vision_encoder_decoder.arrays.model import (
    IGNORED,
    decode,
    encode,
    forward,
    loss,
    shift_right,
)
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace, namespace
from dromaius.models.vision_encoder_decoder.arrays.params import (
    check,
    flat,
    load,
    new,
    place,
    save,
    tensors,
    tree,
)
from dromaius.models.vision_encoder_decoder.arrays.settings import Settings

__all__ = [
    "IGNORED",
    "Array",
    "Generated",
    "Namespace",
    "Settings",
    "check",
    "decode",
    "encode",
    "flat",
    "forward",
    "generate",
    "load",
    "loss",
    "namespace",
    "new",
    "place",
    "save",
    "shift_right",
    "tensors",
    "tree",
]
