"""`TFVisionEncoderDecoderModel`: the seed's class over our forward, with TensorFlow alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from dromaius.compat.vision_encoder_decoder.arrays.forward import Text, decode
from dromaius.compat.vision_encoder_decoder.arrays.model import (
    ArrayModel,
    keep,
    operations,
    refuse_unknown,
)
from dromaius.compat.vision_encoder_decoder.arrays.outputs import (
    DecoderOutput,
    GenerateOutput,
    Seq2SeqOutput,
)
from dromaius.errors import InputError, warn_once
from dromaius.files import atomic_path
from dromaius.models.vision_encoder_decoder import arrays
from dromaius.models.vision_encoder_decoder.arrays import layers, model
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array
from dromaius.models.vision_encoder_decoder.folders import SAFETENSORS_FILE, TF_FILE
from dromaius.models.vision_encoder_decoder.foreign import norms, to_tf
from dromaius.models.vision_encoder_decoder.foreign_files import write_h5

_Module: Any
_as_written: Any
try:
    import tensorflow as tf

    _Module = tf.Module
    _as_written = tf.autograph.experimental.do_not_convert  # no loop here depends on a tensor
except ImportError:  # the class exists all the same; making one says what to install
    _Module, _as_written = object, lambda function: function

_SCOPE = "tf_vision_encoder_decoder_model"
_NO_KERAS = (
    "is a method of Keras: this model is a tf.Module. Take the gradient of its loss by "
    "tf.GradientTape over model.trainable_variables and hand it to an optimizer"
)


class TFVisionEncoderDecoderModel(ArrayModel, _Module):
    """Any image encoder with any text decoder that `arrays` has, in TensorFlow.

    Args:
        config: a `VisionEncoderDecoderConfig` (copied).
        seed: of the new parameters.

    A `tf.Module` with a variable for each parameter, no `keras.Model`. Inside of a `tf.function`
    inputs need a static shape. Inputs may be NumPy arrays.
    Raises ImportError without TensorFlow, ConfigError for parts that run in PyTorch only.
    """

    framework = "tensorflow"
    own_files = "tf"
    options = frozenset({"seed"})

    def __init__(
        self,
        config: Any = None,
        encoder: Any = None,
        decoder: Any = None,
        *,
        seed: int = 0,
        params: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        xp = operations(self.framework)
        if encoder is not None or decoder is not None:
            raise TypeError(
                "models as encoder and decoder are not taken; save them, and give their folders "
                "to TFVisionEncoderDecoderModel.from_encoder_decoder_pretrained"
            )
        if config is None:
            raise ValueError("give a configuration, or use from_encoder_decoder_pretrained")
        super().__init__(name=_SCOPE)
        self._configure(config)
        new = arrays.new(self.core.config, seed) if params is None else params
        paths = self._paths(new)
        self.params = {
            name: tf.Variable(xp.asarray(value), name=paths[name][:-2])
            for name, value in new.items()
        }

    @classmethod
    def _made(cls, config: Any, params: Mapping[str, np.ndarray], options: dict[str, Any]) -> Any:
        return cls(config, params=params, **options)

    def _paths(self, params: Mapping[str, Any]) -> dict[str, str]:
        """PyTorch's names -> TensorFlow's full paths."""
        kind, of_norms = self.core.config["encoder"]["model_type"], norms(params)
        return {name: to_tf(name, value, kind, of_norms)[0] for name, value in params.items()}

    def save_pretrained(
        self,
        save_directory: Any,
        saved_model: bool = False,
        safe_serialization: bool = False,
        **kwargs: Any,
    ) -> None:
        """Writes tf_model.h5, or safetensors in TensorFlow's layout, and the configuration.

        Raises InputError for `saved_model`, which is not written.
        """
        if saved_model:
            raise InputError("saved_model=True: use tf.saved_model.save(model, folder, signatures)")
        folder = Path(save_directory)
        values = {name: variable.numpy() for name, variable in self.params.items()}
        kind, of_norms = self.core.config["encoder"]["model_type"], norms(values)
        variables = dict(to_tf(name, value, kind, of_norms) for name, value in values.items())
        if safe_serialization:
            from safetensors.numpy import save_file

            variables = {path: np.ascontiguousarray(value) for path, value in variables.items()}
            with atomic_path(folder / SAFETENSORS_FILE) as temporary:
                save_file(variables, temporary, metadata={"format": "tf"})
        else:
            write_h5(folder / TF_FILE, variables, _SCOPE)
        self._save_settings(folder)

    # ------------------------------------------------------------------------------ running

    @_as_written
    def __call__(self, pixel_values: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `call`; the first argument may be a dict of all of them."""
        if isinstance(pixel_values, Mapping):
            return self.call(**{**pixel_values, **kwargs})
        return self.call(pixel_values, *args, **kwargs)

    @_as_written
    def call(
        self,
        pixel_values: Any = None,
        decoder_input_ids: Any = None,
        decoder_attention_mask: Any = None,
        encoder_outputs: Any = None,
        past_key_values: Any = None,
        decoder_inputs_embeds: Any = None,
        labels: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool = False,
        encoder_attention_mask: Any = None,
        **kwargs: Any,
    ) -> Seq2SeqOutput | tuple[Any, ...]:
        """Logits [B, T, V], and the loss [1] if there are labels [B, T] (-100: no target).

        Args:
            pixel_values: [B, C, H, W], or give `encoder_outputs`.
            decoder_input_ids: [B, T]; made of the labels, shifted, if not given.
            past_key_values: of an earlier call, of each layer keys and values [B, H, L, d] of the
                text and those of the picture. The ids are then those that follow.
            encoder_attention_mask: [B, S], zero for image tokens that are padding.
            training: has no effect, there is no dropout.

        Raises ValueError: no image; labels without a start id. TypeError: an unknown argument.
        """
        refuse_unknown(kwargs)
        if training:
            warn_once("training=True: there is no dropout here, the forward is evaluation's")
        wishes = self._wishes(output_attentions, output_hidden_states, return_dict)
        ids = decoder_input_ids
        if labels is not None:
            self.check_ids(labels, "labels", but=arrays.IGNORED)
            if ids is None and decoder_inputs_embeds is None:
                ids = self.prepare_decoder_input_ids_from_labels(labels)
        if ids is not None:
            self.check_ids(ids, "decoder_input_ids")
        encoded = self._encoded(self.params, pixel_values, encoder_outputs, wishes)
        picture = self._picture(encoded.last_hidden_state, past_key_values)
        text = self._text(ids, decoder_inputs_embeds, decoder_attention_mask, past_key_values)
        decoded = decode(
            self.core, self.params, picture, text, encoder_attention_mask, wishes.layers
        )
        self._hand_out_cache(decoded, picture, labels is None if use_cache is None else use_cache)
        loss = None
        if labels is not None:
            loss = tf.reshape(arrays.loss(self.core.xp, decoded.logits, labels), (1,))
        output = Seq2SeqOutput.of(encoded, keep(decoded, wishes), loss)
        return output if wishes.as_dict else output.to_tuple()

    def _picture(self, hidden: Array, past: Any) -> layers.Cache:
        """Keys and values of the picture for each layer."""
        if past is not None:
            return tuple((keys, values) for _, _, keys, values in past)
        xp = self.core.xp
        return model.remember(xp, self.core.config, self.params, xp.asarray(hidden, "float32"))

    def _text(self, ids: Any, embeddings: Any, mask: Any, past: Any) -> Text:
        """What the decoder reads; the cache of an earlier call gets room for it."""
        if past is None:
            return Text(ids, embeddings, mask)
        xp = self.core.xp
        new = xp.shape(xp.asarray(ids if embeddings is None else embeddings))[1]
        room = [(0, 0), (0, 0), (0, new), (0, 0)]
        cache = tuple((xp.pad(layer[0], room), xp.pad(layer[1], room)) for layer in past)
        return Text(ids, embeddings, mask, cache=cache, start=xp.shape(past[0][0])[2])

    def _hand_out_cache(
        self, decoded: DecoderOutput, picture: layers.Cache, wanted: bool | None
    ) -> None:
        """The cache in the form of the seed: four tensors a layer."""
        known, decoded.past_key_values = decoded.past_key_values, None
        if wanted:
            pairs = zip(known, picture, strict=True)
            decoded.past_key_values = tuple((*text, *image) for text, image in pairs)

    def prepare_decoder_input_ids_from_labels(self, labels: Any) -> Array:
        """Labels [B, T] shifted right behind the start id. Raises ValueError without one."""
        return arrays.shift_right(self.core.xp, labels, *self.start_and_pad())

    def generate(self, pixel_values: Any = None, **kwargs: Any) -> Any:
        """Texts for pictures [B * N, L]; with `return_dict_in_generate` also their scores.

        Greedy, or beam search with `num_beams`.
        kwargs: `max_length`, `max_new_tokens`, `num_beams`, `length_penalty`, `early_stopping`,
        `num_return_sequences`, ids, `decoder_input_ids` (a prompt), `encoder_outputs`, ...
        Raises InputError for a setting that is for PyTorch only, such as sampling.
        """
        as_dict = kwargs.pop("return_dict_in_generate", False)
        found = self._search(self.params, pixel_values, kwargs)
        if not as_dict:
            return found.sequences
        beams = kwargs.get("num_beams") or self.generation_config.num_beams or 1
        return GenerateOutput(found.sequences, found.scores if beams > 1 else None)

    def _is_known(self, array: Array) -> bool:
        return not tf.is_symbolic_tensor(array)

    # ---------------------------------------------------------------------------- variables

    def get_input_embeddings(self) -> Any:
        """The variable that turns patches into tokens: the encoder's, as in the seed's class."""
        return self.params["encoder.embeddings.patch_embeddings.projection.weight"]

    def get_output_embeddings(self) -> Any:
        """The variable of the decoder's head."""
        words, head = self.core.words()
        return self.params[head if head in self.params else words]

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises NotImplementedError, as the seed's class does."""
        raise NotImplementedError(
            "TensorFlow's model cannot be resized: resize the PyTorch one, save it, and load it "
            "with from_pt=True"
        )

    def compile(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises NotImplementedError that names the route."""
        raise NotImplementedError(f"compile {_NO_KERAS}")

    def fit(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises NotImplementedError that names the route."""
        raise NotImplementedError(f"fit {_NO_KERAS}")
