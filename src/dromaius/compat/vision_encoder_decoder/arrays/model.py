"""What `FlaxVisionEncoderDecoderModel` and `TFVisionEncoderDecoderModel` have in common."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from transformers import GenerationConfig

from dromaius.compat.vision_encoder_decoder.arrays import loading
from dromaius.compat.vision_encoder_decoder.arrays.forward import Core, encode
from dromaius.compat.vision_encoder_decoder.arrays.loading import structure
from dromaius.compat.vision_encoder_decoder.arrays.outputs import EncoderOutput, Output
from dromaius.compat.vision_encoder_decoder.configuration import (
    VisionEncoderDecoderConfig,
    own_kind,
)
from dromaius.compat.vision_encoder_decoder.ids import TokenIds
from dromaius.compat.vision_encoder_decoder.sources import (
    find,
    read_config,
    read_generation_config,
)
from dromaius.errors import InputError, warn_once
from dromaius.files import write_text
from dromaius.models.vision_encoder_decoder import arrays, folders
from dromaius.models.vision_encoder_decoder.arrays.namespace import Array, Namespace

_OF_LOADING = frozenset(
    "cache_dir force_download resume_download proxies local_files_only token use_safetensors "
    "trust_remote_code ignore_mismatched_sizes".split()
)
"""Arguments that transformers' loaders know and that nothing here depends on."""
_OF_SEARCHES = ("use_cache", "trace", "output_scores")


@functools.cache
def operations(framework: str) -> Namespace:
    """The operations of "jax" or "tensorflow". Raises ImportError naming the extra."""
    return arrays.namespace(framework)


class Wishes(NamedTuple):
    """What a call shall return beside the logits."""

    layers: bool
    """Anything of the layers."""
    states: bool
    attentions: bool
    as_dict: bool


class ArrayModel(TokenIds):
    """Files, configuration, encoding and searches; parameters are the subclasses' matter.

    Their names are those on disk, `{"encoder.embeddings.cls_token": ...}`. There is no dropout: in
    training too the forward is that of evaluation.
    """

    framework: ClassVar[str]
    """Of `operations`."""
    own_files: ClassVar[str]
    """"flax" or "tf"."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Arguments of the constructor that `from_pretrained` takes too."""
    base_model_prefix = "vision_encoder_decoder"
    main_input_name = "pixel_values"
    config_class = VisionEncoderDecoderConfig

    def _configure(self, config: Any) -> None:
        self.config = own_kind(config)
        self.core = Core(operations(self.framework), structure(self.config))
        arrays.tensors(self.core.config)  # raises ConfigError for parts that are not here
        self.generation_config = GenerationConfig(**self.config.take_decoding())
        self.name_or_path = ""
        self.note_ids()

    @classmethod
    def _made(cls, config: Any, params: Mapping[str, np.ndarray], options: dict[str, Any]) -> Any:
        """A model with these parameters."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------- loading

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Reads a folder (or hub id) with weights of any framework; PyTorch is not needed.

        Where there are several, the own framework's are read, unless one is asked for.

        Args:
            pretrained_model_name_or_path: folder or hub id.
            **kwargs: `from_pt`, `config`, `revision`, `subfolder`, `generation_config`, any
                attribute of the configuration, arguments of the constructor.

        Raises CheckpointError when files are absent or damaged, or tensors are missing or have
        another shape; ConfigError for parts that run in PyTorch only.
        """
        operations(cls.framework)
        if args:
            raise TypeError("from_pretrained takes one folder; name all other arguments")
        source = pretrained_model_name_or_path
        folder, framework = find(source, kwargs)
        options = {name: kwargs.pop(name) for name in cls.options & set(kwargs)}
        config, given = read_config(folder, kwargs)
        generation = read_generation_config(folder, kwargs, given)
        if unknown := sorted(set(kwargs) - _OF_LOADING):
            raise TypeError(f"from_pretrained takes no {', '.join(unknown)}")
        params = loading.read_model(folder, structure(config), framework, cls.own_files)
        model = cls._made(config, params, options)
        owner = model[0] if isinstance(model, tuple) else model
        owner.name_or_path = owner.config.name_or_path = str(source)
        if generation is not None:
            owner.generation_config = generation
        return model

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: Any = None,
        decoder_pretrained_model_name_or_path: Any = None,
        *model_args: Any,
        **kwargs: Any,
    ) -> Any:
        """Joins a pretrained encoder and a pretrained decoder, from weights of any framework.

        Args:
            **kwargs: `encoder_...` and `decoder_...` go to that part (`_from_pt`, `_config`,
                `_revision`, any attribute of its configuration), `tokenizer` to `use_tokenizer`,
                arguments of the constructor to it, others to the configuration of the whole.

        Cross-attention that the decoder did not have, and the projection, are new and have to be
        trained. Raises CheckpointError if any other tensor is missing, ValueError without a path.
        """
        operations(cls.framework)
        if model_args:
            raise TypeError("name all arguments but the two folders")
        tokenizer = kwargs.pop("tokenizer", None)
        start = {n: kwargs.pop(n) for n in ("decoder_start_token_id",) if n in kwargs}
        encoder_options, decoder_options = (
            {name[8:]: kwargs.pop(name) for name in list(kwargs) if name.startswith(prefix)}
            for prefix in ("encoder_", "decoder_")
        )
        options = {name: kwargs.pop(name) for name in cls.options & set(kwargs)}
        encoder_config, encoder = loading.read_part(
            encoder_pretrained_model_name_or_path, "encoder", encoder_options, cls.own_files
        )
        decoder_config, decoder = loading.read_part(
            decoder_pretrained_model_name_or_path, "decoder", decoder_options, cls.own_files
        )
        config = VisionEncoderDecoderConfig(
            encoder=encoder_config, decoder=decoder_config, **start, **kwargs
        )
        seed = int(options.get("seed", 0))
        params = loading.join(structure(config), encoder, decoder, seed)
        model = cls._made(config, params, options)
        if tokenizer is not None:
            (model[0] if isinstance(model, tuple) else model).use_tokenizer(tokenizer)
        return model

    def _save_settings(self, folder: Path) -> None:
        """Writes config.json and generation_config.json; warns of others' weights beside."""
        generation = copy.deepcopy(self.generation_config)
        generation.update(**self.all_ids())  # PyTorch's class looks for them there alone
        self.config.architectures = ["VisionEncoderDecoderModel"]
        write_text(folder / "config.json", self.config.to_json_string())
        write_text(folder / "generation_config.json", generation.to_json_string())
        others = [name for name in folders.held(folder) if name != self.own_files]
        if folders.safetensors_format(folder) == self.own_files and "pt" in others:
            others.remove("pt")  # the file is this model's own
        if others:
            warn_once(
                f"{folder} also holds weights of {' and '.join(others)}, which stay as they were: "
                f"load these with from_{self.own_files}=True"
            )

    # ------------------------------------------------------------------------------- running

    def vocabulary_size(self) -> int:
        """Tokens that the decoder has embeddings for."""
        return int(self.config.decoder.vocab_size)

    def _wishes(self, attentions: Any, states: Any, as_dict: Any) -> Wishes:
        defaults = (
            self.config.output_attentions,
            self.config.output_hidden_states,
            self.config.return_dict,
        )
        pairs = zip((attentions, states, as_dict), defaults, strict=True)
        attentions, states, as_dict = (bool(o if g is None else g) for g, o in pairs)
        return Wishes(attentions or states, states, attentions, as_dict)

    def _encoded(self, params: Any, pixels: Any, given: Any, wishes: Wishes) -> EncoderOutput:
        """What the encoder finds, or a caller's `encoder_outputs`."""
        if given is None:
            if pixels is None:
                raise ValueError("give pixel_values, or encoder_outputs of an earlier call")
            return keep(encode(self.core, params, pixels, wishes.layers), wishes)
        if isinstance(given, (tuple, list)):
            return EncoderOutput(*given[:3])
        if isinstance(given, (Output, Mapping)):
            names = ("last_hidden_state", "hidden_states", "attentions")
            return EncoderOutput(*(given.get(name) for name in names))
        return EncoderOutput(given)

    def _search(
        self, params: Any, pixels: Any, kwargs: dict[str, Any], whole: bool = False
    ) -> arrays.Generated:
        """Greedy or beam search; kwargs as for transformers' generate."""
        self.read_config()
        generation = kwargs.pop("generation_config", None) or self.generation_config
        given = {name: v for name, v in kwargs.items() if v is not None}
        for name in _OF_SEARCHES:
            given.pop(name, None)
        hidden, prompt = given.pop("encoder_outputs", None), given.pop("decoder_input_ids", None)
        mask = given.pop("encoder_attention_mask", None)
        if hidden is not None:
            wishes = Wishes(False, False, False, True)
            hidden, pixels = self._encoded(params, None, hidden, wishes).last_hidden_state, None
        if prompt is not None:
            self.check_ids(prompt, "decoder_input_ids")
        settled = {n: v for n, v in generation.to_dict().items() if v is not None}
        return arrays.generate(
            self.core.xp,
            structure(self.config),
            params,
            pixels,
            hidden=hidden,
            hidden_mask=mask,
            prompt=prompt,
            generation=settled,
            whole=whole,
            **given,
        )

    def check_ids(self, ids: Any, name: str, but: int | None = None) -> None:
        """Raises InputError for ids (all `but` one) that the decoder has no embedding for.

        Values that are not known yet, inside of a compiled function, are not looked at.
        """
        if not self._is_known(ids):
            return
        values = np.asarray(ids)
        values = values if but is None else values[values != but]
        size = self.vocabulary_size()
        wrong = values[(values < 0) | (values >= size)]
        if wrong.size:
            raise InputError(
                f"{name} hold id {int(wrong.flat[0])}, the decoder's vocabulary has {size}: the "
                "tokenizer does not match the decoder"
            )

    def _is_known(self, array: Array) -> bool:
        """Whether an array's values can be read now."""
        raise NotImplementedError


def keep(output: Any, wishes: Wishes) -> Any:
    """An output without what was not asked for."""
    if not wishes.states:
        output.hidden_states = None
    if not wishes.attentions:
        output.attentions = None
        if hasattr(output, "cross_attentions"):
            output.cross_attentions = None
    return output


def refuse_unknown(arguments: Iterable[str]) -> None:
    """Raises TypeError if any is left."""
    if names := sorted(arguments):
        raise TypeError(f"the model takes no {', '.join(names)}")
