"""`FlaxVisionEncoderDecoderModel`: the seed's class over our forward, with JAX alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dromaius.compat.vision_encoder_decoder.arrays.flax_tree import (
    Tree,
    cast,
    flat,
    plain,
    register_outputs,
    tree_of,
)
from dromaius.compat.vision_encoder_decoder.arrays.forward import Text, decode
from dromaius.compat.vision_encoder_decoder.arrays.model import ArrayModel, keep, operations
from dromaius.compat.vision_encoder_decoder.arrays.outputs import (
    DecoderOutput,
    EncoderOutput,
    GenerateOutput,
    Seq2SeqOutput,
)
from dromaius.errors import ConfigError, InputError, warn_once
from dromaius.models.vision_encoder_decoder import arrays
from dromaius.models.vision_encoder_decoder.arrays import configuration, layers, model
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array
from dromaius.models.vision_encoder_decoder.folders import FLAX_FILE
from dromaius.models.vision_encoder_decoder.foreign_files import write_flax


class FlaxVisionEncoderDecoderModel(ArrayModel):
    """Any image encoder with any text decoder that `arrays` has, in JAX.

    Args:
        config: a `VisionEncoderDecoderConfig` (copied).
        input_shape: as Flax's, of no effect: the configuration says the size of the pictures.
        seed: of the new parameters.
        dtype: float32; `to_bf16` halves the parameters, which are computed with in float32.
        _do_init: False leaves out the parameters: they are given to each call.

    `params` is a tree as Flax's, in which `jax.grad` may differentiate.
    Raises ImportError without JAX, ConfigError for parts that run in PyTorch only.
    """

    framework = "jax"
    own_files = "flax"
    options = frozenset({"input_shape", "seed", "dtype", "_do_init"})

    def __init__(
        self,
        config: Any,
        input_shape: Any = None,
        seed: int = 0,
        dtype: Any = None,
        _do_init: bool = True,
        *,
        params: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        operations(self.framework)
        register_outputs()
        if dtype is not None and np.dtype(dtype) != np.float32:
            raise ConfigError(
                f"dtype={np.dtype(dtype).name}: the model computes in float32; "
                "model.to_bf16(params) halves the memory of the parameters"
            )
        self._configure(config)
        self._seen: tuple[list[Any], dict[str, Array]] = ([], {})
        self._params: Tree | None = None
        if _do_init:
            new = arrays.new(self.core.config, seed) if params is None else params
            self._params = tree_of(arrays.place(self.core.xp, new))

    @classmethod
    def _made(cls, config: Any, params: Mapping[str, np.ndarray], options: dict[str, Any]) -> Any:
        """A model; with `_do_init=False` the pair of a model without parameters and these."""
        model = cls(config, params=params, **options)
        if options.get("_do_init", True):
            return model
        return model, tree_of(arrays.place(model.core.xp, params))

    # --------------------------------------------------------------------------- parameters

    @property
    def params(self) -> Tree:
        """The tree. Raises ValueError if the model was made without."""
        if self._params is None:
            raise ValueError("the model was made with _do_init=False: keep the parameters yourself")
        return self._params

    @params.setter
    def params(self, tree: Mapping[str, Any]) -> None:
        tree = plain(tree)
        arrays.check(self.core.config, flat(tree))
        self._params = tree

    def init_weights(
        self, rng: Any, input_shape: Any = None, params: Mapping[str, Any] | None = None
    ) -> Tree:
        """New parameters; those in `params` are kept. rng: a key of `jax.random`."""
        import jax

        seed = int(jax.random.randint(rng, (), 0, 2**31 - 1))
        new = arrays.place(self.core.xp, arrays.new(self.core.config, seed))
        return tree_of(new | ({} if params is None else flat(params)))

    def to_bf16(self, params: Mapping[str, Any], mask: Any = None) -> Tree:
        """The parameters in bfloat16; where a leaf of `mask` is False, as they were."""
        return cast(params, "bfloat16", mask)

    def to_fp16(self, params: Mapping[str, Any], mask: Any = None) -> Tree:
        """The parameters in float16."""
        return cast(params, "float16", mask)

    def to_fp32(self, params: Mapping[str, Any], mask: Any = None) -> Tree:
        """The parameters in float32."""
        return cast(params, "float32", mask)

    def _weights(self, params: Mapping[str, Any] | None) -> dict[str, Array]:
        """Flat, under PyTorch's names; kept as long as no leaf of the tree is another."""
        import jax

        tree = self.params if params is None else params
        tree = tree["params"] if "params" in tree else tree
        leaves = jax.tree_util.tree_leaves(tree)
        old, weights = self._seen
        if len(old) == len(leaves) and all(a is b for a, b in zip(old, leaves, strict=True)):
            return weights
        weights = flat(cast(tree, "float32", None))
        kept = all(leaf.dtype == np.float32 for leaf in leaves)  # of halves no whole copy is kept
        if kept and not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            self._seen = leaves, weights
        return weights

    def save_pretrained(
        self, save_directory: Any, params: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Writes flax_model.msgpack (these parameters, else the model's) and the configuration."""
        folder = Path(save_directory)
        tree = self.params if params is None else params
        arrays.check(self.core.config, flat(tree))
        write_flax(folder / FLAX_FILE, plain(tree))
        self._save_settings(folder)

    # ------------------------------------------------------------------------------ running

    def __call__(
        self,
        pixel_values: Any,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Any = None,
    ) -> Seq2SeqOutput | tuple[Any, ...]:
        """pixels [B, C, H, W] and ids [B, T] -> logits [B, T, V] and what was asked for.

        `dropout_rng` and `train` are taken and have no effect: there is no dropout.
        Raises ValueError without decoder_input_ids.
        """
        wishes = self._wishes(output_attentions, output_hidden_states, return_dict)
        encoded = self.encode(
            pixel_values, output_attentions, output_hidden_states, True, train, params
        )
        decoded = self.decode(
            decoder_input_ids,
            encoded,
            None,
            decoder_attention_mask,
            decoder_position_ids,
            None,
            output_attentions,
            output_hidden_states,
            True,
            train,
            params,
        )
        output = Seq2SeqOutput.of(encoded, decoded)  # type: ignore[arg-type]  # not tuples: True above
        return output if wishes.as_dict else output.to_tuple()

    def encode(
        self,
        pixel_values: Any,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Any = None,
    ) -> EncoderOutput | tuple[Any, ...]:
        """pixels [B, C, H, W] -> last_hidden_state [B, S, E]."""
        if train:
            warn_once("train=True: there is no dropout in JAX here, the forward is evaluation's")
        wishes = self._wishes(output_attentions, output_hidden_states, return_dict)
        encoded = self._encoded(self._weights(params), pixel_values, None, wishes)
        return encoded if wishes.as_dict else encoded.to_tuple()

    def decode(
        self,
        decoder_input_ids: Any,
        encoder_outputs: Any,
        encoder_attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        decoder_position_ids: Any = None,
        past_key_values: Tree | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        train: bool = False,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Any = None,
    ) -> DecoderOutput | tuple[Any, ...]:
        """ids [B, T] and what `encode` returned -> logits [B, T, V].

        past_key_values: of `init_cache` or the call before; then `decoder_attention_mask` is as
        long as the cache, and positions are counted on from it.
        """
        if decoder_input_ids is None:
            raise ValueError("give decoder_input_ids: they are not made of labels in JAX")
        self.check_ids(decoder_input_ids, "decoder_input_ids")
        wishes = self._wishes(output_attentions, output_hidden_states, return_dict)
        weights, xp = self._weights(params), self.core.xp
        hidden = self._encoded(weights, None, encoder_outputs, wishes).last_hidden_state
        picture = model.remember(xp, self.core.config, weights, xp.asarray(hidden))
        text = Text(xp.asarray(decoder_input_ids, "int32"), mask=decoder_attention_mask)
        if past_key_values is None:
            text = Text(text.ids, mask=text.mask, positions=decoder_position_ids)
        else:
            start = past_key_values["index"]
            text = Text(text.ids, mask=text.mask, cache=past_key_values["layers"], start=start)
        output = decode(self.core, weights, picture, text, encoder_attention_mask, wishes.layers)
        known, output.past_key_values = output.past_key_values, None
        if past_key_values is not None:
            index = text.start + xp.shape(text.ids)[1]
            output.past_key_values = {"index": index, "layers": known}
        output = keep(output, wishes)
        return output if wishes.as_dict else output.to_tuple()

    def init_cache(self, batch_size: int, max_length: int, encoder_outputs: Any) -> Tree:
        """Room for `max_length` tokens of `batch_size` texts, for `decode`."""
        xp, weights = self.core.xp, self._weights(None)
        wishes = self._wishes(False, False, True)
        hidden = self._encoded(weights, None, encoder_outputs, wishes).last_hidden_state
        limit = configuration.positions(self.core.config)
        if limit is not None and max_length > limit:
            raise InputError(f"a cache of {max_length} tokens: the decoder has {limit} positions")
        picture = model.remember(xp, self.core.config, weights, xp.asarray(hidden))
        cache = layers.empty_cache(xp, picture, batch_size, max_length)
        return {"index": xp.asarray(0, "int32"), "layers": cache}

    def generate(
        self,
        pixel_values: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        prng_key: Any = None,
        **kwargs: Any,
    ) -> GenerateOutput:
        """Texts for pictures -> `.sequences` [B * N, max_length], padded behind their ends.

        Greedy, or beam search with `num_beams`; compiled once for each shape and settings.
        kwargs: `max_length`, `max_new_tokens`, `num_beams`, `length_penalty`, `early_stopping`,
        `num_return_sequences`, ids, `decoder_input_ids` (a prompt), `encoder_outputs`, ...
        Raises InputError for a setting that is for PyTorch only, such as sampling.
        """
        found = self._search(self._weights(params), pixel_values, kwargs, whole=True)
        beams = kwargs.get("num_beams") or self.generation_config.num_beams or 1
        return GenerateOutput(found.sequences, found.scores if beams > 1 else None)

    def _is_known(self, array: Array) -> bool:
        import jax

        return not isinstance(array, jax.core.Tracer)
