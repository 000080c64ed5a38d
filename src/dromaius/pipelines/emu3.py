"""The model a user holds: what `dromaius.load` returns for the Emu3 family.

Legend: h/w grid of codes, t latent frames.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dromaius.errors import CheckpointError, ContextError, InputError
from dromaius.io import images
from dromaius.models.emu3.config import Emu3Config
from dromaius.models.emu3.language_model import LanguageModel
from dromaius.models.emu3.prompt import smart_resize, with_period
from dromaius.models.emu3.vision_tokenizer import VisionTokenizer
from dromaius.models.emu3.vocabulary import Vocabulary
from dromaius.pipelines import facts, image, memory, presets, text, video
from dromaius.pipelines.drawing import Drawing
from dromaius.pipelines.presets import Language
from dromaius.pipelines.text import Picture
from dromaius.tokenizers.text import TextTokenizer


@dataclass
class Emu3:
    """Draws pictures, answers questions about them, turns them into codes and back."""

    config: Emu3Config
    language_model: LanguageModel | None = field(repr=False)
    """ids [B,T] -> logits [B,T,V]; None where only a vision tokenizer was loaded."""
    vision_tokenizer: VisionTokenizer | None = field(repr=False)
    """pixels <-> codes, float32 and frozen; None where only a language model was loaded."""
    tokenizer: TextTokenizer | None = field(repr=False)
    name: str = "Emu3"
    folders: tuple[Path, ...] = ()
    hash: str = ""
    layout: str = ""
    memory: str = "resident"
    """Where the halves are while they do not work (`dromaius.pipelines.memory`)."""
    vocabulary: Vocabulary = field(init=False)

    def __post_init__(self) -> None:
        self.vocabulary = Vocabulary.from_config(self.config.vocabulary)

    # --- properties ------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return memory.place(self.language_model or self.require_vision_tokenizer())[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the language model; the vision tokenizer is float32 always."""
        return memory.place(self.language_model or self.require_vision_tokenizer())[1]

    @property
    def spatial_factor(self) -> int:
        """Pixels per code along one side."""
        vision = self.config.vision_tokenizer
        return vision.spatial_factor if vision else 8

    # --- pictures and codes ----------------------------------------------------------------------

    def encode_image(self, picture: Image.Image) -> Tensor:
        """PIL image -> codes int64 [h,w], resized as the checkpoint's image settings say."""
        pixels = self.to_pixels([picture]).to(self.device)
        with torch.no_grad():
            return self.require_vision_tokenizer().encode(pixels)[0].cpu()

    def decode_image(self, codes: Tensor) -> Image.Image:
        """Codes int64 [h,w] -> PIL image of 8h x 8w pixels."""
        if codes.ndim != 2:
            raise InputError(f"codes of a picture must be [h,w], got {list(codes.shape)}")
        with torch.no_grad():
            grid = self.checked_codes(codes.to(self.device))[None]
            pixels = self.require_vision_tokenizer().decode(grid)
        settings = self.config.image
        return images.from_pixels(pixels, settings.mean, settings.std)[0]

    def encode_video(self, frames: Sequence[Image.Image]) -> Tensor:
        """Frames of one size -> codes int64 [t,h,w], four frames a grid."""
        return video.encode_video(self, frames)

    def decode_video(self, codes: Tensor) -> list[Image.Image]:
        """Codes int64 [t,h,w] -> 4t frames."""
        return video.decode_video(self, codes)

    # --- text to image ---------------------------------------------------------------------------

    def generate_image(
        self,
        prompt: str | Sequence[str],
        height: int | Sequence[int | None] | None = None,
        width: int | Sequence[int | None] | None = None,
        ratio: str | Sequence[str] = "1:1",
        area: int | None = None,
        negative_prompt: str | Sequence[str | None] | None = None,
        guidance: float | Sequence[float | None] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        temperature: float = 1.0,
        seed: int | Sequence[int] | None = None,
        n: int = 1,
        guided: tuple[float, float] = (0.0, 1.0),
        state: str | Path | None = None,
        accelerate: str | None = None,
        window: int | None = None,
    ) -> Image.Image | list[Image.Image]:
        """Draw one picture, or many in one batch.

        `height`, `width`, `ratio`, `negative_prompt`, `guidance` and `seed` are one value, or a
        list with one entry per prompt. None takes the checkpoint's generation settings. The prompt
        is never altered. Noise is a function of (seed, place, id), so a picture is the same alone
        and in a batch.

        Args:
            prompt: what to draw; a list draws a batch.
            height, width: size in pixels, multiples of 8; both or neither.
            ratio: width to height, such as "16:9", where no size is given.
            area: about how many pixels, where no size is given.
            negative_prompt: what to steer away from.
            guidance: how strongly; 1 turns guidance off.
            top_k: keep the k likeliest ids; 0 turns it off.
            top_p: keep the likeliest ids up to this joint probability; 1 turns it off.
            min_p: before guidance, keep ids with at least this share of the best id's probability.
            temperature: 0 always takes the likeliest id.
            seed: picture i of the result gets seed + i (a list: each prompt its own start).
            n: pictures per prompt.
            guided: the part of each picture, as shares of its codes, that is drawn with guidance.
            state: a file that keeps what is drawn so far, row by row, and from which the same call
                goes on; without a seed, with the file's own. It stays when all is drawn.
            accelerate: "seed-exact" draws the same picture in fewer passes, "auto" does so where it
                is faster; "coupled" draws another picture of the same distribution. None is "off".
            window: codes that a pass of these tries at once. Default: 16; 4 on a CPU, but for
                "coupled".

        Returns:
            One picture for a str prompt with n = 1, otherwise a list, prompt by prompt.

        Raises:
            InputError: a size, number or list that cannot be used.
        """
        *_, drawing = self.stream_image(
            prompt,
            height,
            width,
            ratio,
            area,
            negative_prompt,
            guidance,
            top_k,
            top_p,
            min_p,
            temperature,
            seed,
            n,
            guided,
            state,
            accelerate,
            window,
        )
        pictures = drawing.pictures()
        return pictures[0] if isinstance(prompt, str) and n == 1 else pictures

    def stream_image(
        self, prompt: str | Sequence[str], *args: Any, **kwargs: Any
    ) -> Generator[Drawing, None, None]:
        """As `generate_image`, step by step: yields a `Drawing` that fills from step to step.

        Whoever leaves early (`break`, `close()`) frees the memory; with `state` every code is kept.
        """
        return image.stream_images(self, prompt, *args, **kwargs)

    # --- image to text ---------------------------------------------------------------------------

    def answer(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        max_new_tokens: int | None = None,
    ) -> str:
        """Answer a question about one picture or several. Greedy: the same answer every time."""
        return "".join(self.stream_answer(pictures, question, max_new_tokens)).rstrip()

    def stream_answer(
        self,
        pictures: Picture | Sequence[Picture],
        question: str,
        max_new_tokens: int | None = None,
    ) -> Iterator[str]:
        """As `answer`, piece by piece."""
        return text.stream_answer(self, pictures, question, max_new_tokens)

    def caption(
        self, picture: Picture, max_new_tokens: int | None = None, language: Language = "en"
    ) -> str:
        """Describe a picture; `presets.question` has more questions for `answer`."""
        return self.answer(picture, presets.question("caption", language), max_new_tokens)

    def chat(self, messages: Sequence[dict[str, Any]], max_new_tokens: int | None = None) -> str:
        """The assistant's next message. Greedy, as `answer`.

        The prompt is that of the published -hf chat template: the system's text, then "USER: " or
        "ASSISTANT: " and the message, pictures before text; no end-of-text id between turns.

        Args:
            messages: {"role": "system" | "user" | "assistant", "content": text, or a list of
                {"type": "text", "text": ...} and {"type": "image", "image": a PIL image, a path,
                or codes [h,w]}}. Without a system message the checkpoint's own is put first. Texts
                are taken as they are (`answer` ends questions with a mark: `as_question`).
            max_new_tokens: longest answer in tokens.

        Raises:
            ContextError: the conversation is longer than the model's context. Nothing of it is
                ever left out silently: leave out early messages, or start anew.
            InputError: a message cannot be used.
        """
        return "".join(self.stream_chat(messages, max_new_tokens)).rstrip()

    def stream_chat(
        self, messages: Sequence[dict[str, Any]], max_new_tokens: int | None = None
    ) -> Iterator[str]:
        """As `chat`, piece by piece."""
        return text.stream_chat(self, messages, max_new_tokens)

    def as_question(self, words: str) -> str:
        """A text as `answer` writes it into the prompt: with a period, unless it ends with a mark.

        A chat that sends its first question so gets the answer that `answer` gives.
        """
        return with_period(words) if self.config.prompt.template == "chat" else words

    # --- what the pipelines need -----------------------------------------------------------------

    def to_pixels(self, pictures: Sequence[Image.Image]) -> Tensor:
        """PIL images of one size -> pixels [B,3,H,W] at the size at which they are encoded."""
        settings = self.config.image
        first = pictures[0]
        height, width = smart_resize(first.height, first.width, settings, self.spatial_factor)
        resized = [images.resize(images.to_rgb(p), height, width) for p in pictures]
        return images.to_pixels(resized, settings.mean, settings.std, settings.rescale_factor)

    def checked_codes(self, codes: Tensor) -> Tensor:
        """The codes themselves. Raises InputError if one is outside of the codebook."""
        size = self.config.vocabulary.codebook_size
        if self.config.vision_tokenizer:
            size = self.config.vision_tokenizer.codebook_size
        if codes.numel() == 0 or codes.min() < 0 or codes.max() >= size:
            raise InputError(f"codes must lie in 0..{size - 1}, on a grid that is not empty")
        return codes.long()

    def require_language_model(self) -> LanguageModel:
        if self.language_model is None:
            raise CheckpointError(f"{self.name} holds no language model")
        return self.language_model

    def require_vision_tokenizer(self) -> VisionTokenizer:
        if self.vision_tokenizer is None:
            raise CheckpointError(
                f"{self.name} holds no vision tokenizer; name its folder as vision_tokenizer"
            )
        return self.vision_tokenizer

    def require_tokenizer(self) -> TextTokenizer:
        if self.tokenizer is None:
            raise CheckpointError(
                f"{self.name} holds no text tokenizer (tokenizer.json or *.tiktoken)"
            )
        return self.tokenizer

    def check_context(self, prompt: int, picture: int) -> None:
        """Raises ContextError for a prompt over the context; warns of a picture beyond it."""
        context = self.require_language_model().config.max_position_embeddings
        self.room_for_text(prompt)
        if prompt + picture > context:
            image.warn_beyond_training(prompt + picture, context)

    def room_for_text(self, prompt: int) -> int:
        """Tokens left after a prompt. Raises ContextError where there are none."""
        context = self.require_language_model().config.max_position_embeddings
        if prompt >= context:
            raise ContextError(
                f"the prompt takes {prompt} tokens; the model's context is {context}"
            )
        return context - prompt

    def describe(self) -> dict[str, Any]:
        """What `dromaius info` prints."""
        return facts.describe(self)
