"""Pictures through `generate`: the engine's tokens against transformers' own loop and classes."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    MaxTimeCriteria,
    PrefixConstrainedLogitsProcessor,
    StoppingCriteriaList,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from dromaius.compat import drawing
from tests.compat.transformers.pairs import Pair, make_pair, processors

TEXTS = ["a red apple", "a dog"]
WRONG = ["blurry", "low quality, bad"]


@pytest.fixture(scope="module")
def pair(rng_seed: int, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("drawing"), rng_seed, "sdpa")


class Engine:
    """Counts what the engine draws."""

    def __init__(self, draw: Callable[..., Iterator[Tensor]]) -> None:
        self.draw, self.calls = draw, 0

    def __call__(self, *args: Any) -> Iterator[Tensor]:
        self.calls += 1
        return self.draw(*args)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    counted = Engine(drawing.draw_grids)
    monkeypatch.setattr(drawing, "draw_grids", counted)
    return counted


@pytest.fixture
def loop() -> Callable[..., Any]:
    """transformers' own loop with our model."""

    def run(model: Any, **arguments: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(drawing.Drawing, "recognise", lambda *_: None)
            return model.generate(**arguments)

    return run


def call(pair: Pair, rows: int = 2) -> dict[str, Any]:
    """Arguments of `generate` for pictures of 4x6 codes with guidance, padded left if two."""
    _, processor = processors(pair.codebook)
    options = {"padding": True, "return_tensors": "pt", "return_for_image_generation": True}
    options |= {"ratio": "3:2", "image_area": 40 * 40}
    inputs, wrong = (processor(text=texts[:rows], **options) for texts in (TEXTS, WRONG))
    height, width = inputs.pop("image_sizes")[0]
    return {
        **inputs,
        "negative_prompt_ids": wrong["input_ids"],
        "negative_prompt_attention_mask": wrong["attention_mask"],
        "guidance_scale": 3.0,
        "prefix_allowed_tokens_fn": processor.build_prefix_constrained_fn(height, width),
        "max_new_tokens": 60,
        "do_sample": False,
    }


def without(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in names}


GUIDANCE = ("negative_prompt_ids", "negative_prompt_attention_mask", "guidance_scale")

# --------------------------------------------------------------------------- equal to transformers


@pytest.mark.parametrize("rows", [1, 2])
def test_greedy_pictures_are_those_of_transformers_class(
    pair: Pair, engine: Engine, rows: int
) -> None:
    arguments = call(pair, rows)
    assert (arguments["attention_mask"] == 0).any() == (rows == 2)
    theirs = pair.theirs.generate(**arguments)
    assert torch.equal(pair.ours.generate(**arguments), theirs)
    plain = without(arguments, *GUIDANCE)
    unguided = pair.ours.generate(**plain)
    assert torch.equal(unguided, pair.theirs.generate(**plain))
    assert engine.calls == 2
    assert not torch.equal(unguided, theirs)


@pytest.mark.parametrize("mask", [True, False])
def test_greedy_pictures_of_the_baai_class(
    parts: SimpleNamespace, theirs: Any, engine: Engine, mask: bool
) -> None:
    """Two sizes in one batch, both prompts padded, processors as the repositories' scripts."""
    given = {"ratio": ["1:1", "4:1"], "image_area": 24 * 40, "return_tensors": "pt"}
    given |= {"padding": "longest"}
    prompt = parts.processor(["a dog", "a shiba inu"], **given)
    wrong = parts.processor(["lowres, blurry.", "bad"], **given)
    rule = parts.processor.build_prefix_constrained_fn(*prompt.image_size.T)
    drawn = []
    for model in (theirs, parts.model):
        # Without a mask only our class hides the padding (one warning).
        shown = {"unconditional_attention_mask": wrong.attention_mask}
        guidance = UnbatchedClassifierFreeGuidanceLogitsProcessor(
            3.0, model, wrong.input_ids, **(shown if mask or model is theirs else {})
        )
        chain = [guidance, PrefixConstrainedLogitsProcessor(rule, num_beams=1)]
        settings = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": 151850}
        drawn.append(
            model.generate(
                prompt.input_ids,
                attention_mask=prompt.attention_mask,
                logits_processor=LogitsProcessorList(chain),
                pad_token_id=151643,
                **settings,
            )
        )
    assert torch.equal(*drawn)
    assert engine.calls == 1


def test_a_causal_model_alone(parts: SimpleNamespace, engine: Engine) -> None:
    """The -hf text class on the weights of the BAAI one."""
    from dromaius.compat.transformers import Emu3ForCausalLM, Emu3TextConfig

    config = Emu3TextConfig(**without(parts.model.config.to_dict(), "architectures", "model_type"))
    model = Emu3ForCausalLM(config).eval()
    model.load_state_dict(parts.model.state_dict())
    prompt = parts.processor("a dog", ratio="1:1", image_area=32 * 32, return_tensors="pt")
    rule = parts.processor.build_prefix_constrained_fn(*prompt.image_size.T)
    arguments = {"max_new_tokens": 40, "do_sample": False, "prefix_allowed_tokens_fn": rule}
    arguments |= {"eos_token_id": 151850, "pad_token_id": 151643}
    arguments |= {"inputs": prompt.input_ids, "attention_mask": prompt.attention_mask}
    assert torch.equal(model.generate(**arguments), parts.model.generate(**arguments))
    assert engine.calls == 2


# ------------------------------------------------------------------------ what the engine does not


class Nothing(LogitsProcessor):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return scores


def own_rule(arguments: dict[str, Any]) -> Callable[[int, Tensor], Any]:
    """A function of a user's own."""
    rule = arguments["prefix_allowed_tokens_fn"]
    return lambda row, ids: rule(row, ids)


HONOURED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "as it is": lambda a: a,
    "no guidance": lambda a: without(a, *GUIDANCE),
    "guidance 1": lambda a: a | {"guidance_scale": 1.0},
    "guidance below 0": lambda a: a | {"guidance_scale": -0.5},
    "guidance without a negative prompt": lambda a: without(a, *GUIDANCE[:2]),
    "too few tokens": lambda a: a | {"max_new_tokens": 10},
    "one token": lambda a: a | {"max_new_tokens": 1},
    "a row and its line end": lambda a: a | {"max_new_tokens": 7},
    "up to the end of frame": lambda a: a | {"max_new_tokens": 29},
    "use_cache": lambda a: a | {"use_cache": False},
    "no mask, no padding": lambda a: without({**a, **first_row(a)}, "attention_mask"),
    "the likeliest of a sample": lambda a: a | {"do_sample": True, "top_k": 1},
    "several a prompt": lambda a: (
        a | {"do_sample": True, "top_k": 1, "num_return_sequences": 2, "top_p": 0.9}
    ),
    "processors in a list": lambda a: (
        without(a, "prefix_allowed_tokens_fn")
        | {
            "logits_processor": LogitsProcessorList(
                [PrefixConstrainedLogitsProcessor(a["prefix_allowed_tokens_fn"], 1)]
            )
        }
    ),
}

ROUTED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "a function of one's own": lambda a: a | {"prefix_allowed_tokens_fn": own_rule(a)},
    "no function": lambda a: without(a, "prefix_allowed_tokens_fn") | {"max_new_tokens": 4},
    "beams": lambda a: without(a, *GUIDANCE) | {"num_beams": 2, "max_new_tokens": 4},
    "a processor": lambda a: a | {"logits_processor": LogitsProcessorList([Nothing()])},
    "processors in another order": lambda a: (
        without(a, *GUIDANCE[2:])
        | {"temperature": 0.5, "do_sample": True, "min_p": 0.9999, "guidance_scale": 3.0}
    ),
    "repetition_penalty": lambda a: a | {"repetition_penalty": 1.2},
    "min_new_tokens": lambda a: a | {"min_new_tokens": 5},
    "another end": lambda a: a | {"eos_token_id": 5},
    "an end in the picture": lambda a: (
        a | {"eos_token_id": [a["prefix_allowed_tokens_fn"].vocabulary.end_of_line, 5]}
    ),
    "a criterion": lambda a: (
        a | {"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(1e6)])}
    ),
    "a cache of the caller's": lambda a: (
        without(a, *GUIDANCE) | {"past_key_values": DynamicCache(), "max_new_tokens": 4}
    ),
    "positions of the caller's": lambda a: (
        without(a, *GUIDANCE)
        | {"position_ids": a["attention_mask"].cumsum(-1) * 2, "max_new_tokens": 3}
    ),
    "begun already": lambda a: a | begun(a),
    "a hole in the mask": lambda a: a | hole(a),
    "ends of the picture to come": lambda a: a | {"max_new_tokens": 31, "forced_eos_token_id": 5},
}


def first_row(arguments: dict[str, Any]) -> dict[str, Any]:
    names = ("input_ids", "negative_prompt_ids", "negative_prompt_attention_mask")
    return {name: arguments[name][:1] for name in names}


def begun(arguments: dict[str, Any]) -> dict[str, Any]:
    """The first code is part of the prompt."""
    start = arguments["prefix_allowed_tokens_fn"].vocabulary.visual_start
    added = {"input_ids": start, "attention_mask": 1}
    return {
        name: torch.nn.functional.pad(arguments[name], (0, 1), value=value)
        for name, value in added.items()
    }


def hole(arguments: dict[str, Any]) -> dict[str, Any]:
    mask = arguments["attention_mask"].clone()
    mask[:, -4] = 0
    return {"attention_mask": mask}


@pytest.mark.parametrize("name", HONOURED)
def test_honoured_by_the_engine(
    pair: Pair, engine: Engine, loop: Callable[..., Any], name: str
) -> None:
    """The same ids as the loop writes for the same arguments."""
    arguments = HONOURED[name](call(pair))
    assert torch.equal(pair.ours.generate(**arguments), loop(pair.ours, **arguments))
    assert engine.calls == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ROUTED)
def test_routed_to_transformers(
    pair: Pair, engine: Engine, loop: Callable[..., Any], name: str
) -> None:
    results = []
    for generate in (pair.ours.generate, lambda **a: loop(pair.ours, **a)):
        torch.manual_seed(3)
        results.append(generate(**ROUTED[name](call(pair))))
    assert torch.equal(*results)
    assert engine.calls == 0


@pytest.mark.parametrize(
    "wanted", ["output_scores", "output_logits", "output_attentions", "output_hidden_states"]
)
def test_what_is_returned_besides_ids_comes_from_the_loop(
    pair: Pair, engine: Engine, wanted: str
) -> None:
    arguments = call(pair) | {"max_new_tokens": 3, "return_dict_in_generate": True}
    only_ids = pair.ours.generate(**arguments)
    assert engine.calls == 1
    more = pair.ours.generate(**arguments, **{wanted: True})
    assert engine.calls == 1
    assert torch.equal(only_ids.sequences, more.sequences)
    assert any(more.get(name) for name in ("scores", "logits", "attentions", "hidden_states"))


class Collector:
    def __init__(self) -> None:
        self.ids: list[list[int]] = []
        self.ended = False

    def put(self, value: Tensor) -> None:
        self.ids.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("limit", [60, 9])
def test_streamers(pair: Pair, engine: Engine, loop: Callable[..., Any], limit: int) -> None:
    ours, theirs, two = Collector(), Collector(), Collector()
    arguments = call(pair, 1) | {"max_new_tokens": limit}
    pair.ours.generate(**arguments, streamer=ours)
    assert engine.calls == 1
    loop(pair.ours, **arguments, streamer=theirs)
    assert ours.ids == theirs.ids and ours.ended
    pair.ours.generate(**call(pair, 2), streamer=two)
    assert engine.calls == 1 and two.ended


def test_whatever_is_put_around_the_model_runs(pair: Pair, engine: Engine) -> None:
    model, arguments = pair.ours, call(pair, 1) | {"max_new_tokens": 2}
    seen: list[str] = []
    for module in (model, model.lm_head):
        handle = module.register_forward_hook(lambda *_: seen.append("hook"))
        model.generate(**arguments)
        handle.remove()
        assert len(seen) >= 2
        seen.clear()
    head = model.lm_head
    model.lm_head = nn.Sequential(head)
    model.generate(**arguments)
    model.lm_head = head
    assert engine.calls == 0
    layer = model.model.text_model.layers[0]
    handle = layer.register_forward_hook(lambda *_: seen.append("layer"))
    model.generate(**arguments)
    handle.remove()
    assert engine.calls == 1 and seen


# ----------------------------------------------------------------------- functions of the caller's


def seed_way(pair: Pair, arguments: dict[str, Any]) -> Callable[[int, Tensor], Any]:
    """What seed 000 does: ids from the tokenizer at each call, the offset from the ids."""
    rule = arguments["prefix_allowed_tokens_fn"]
    height, width = rule.heights[0], rule.widths[0]
    _, processor = processors(pair.codebook)
    model, visual = pair.ours, pair.ours.vocabulary_mapping.image_tokens

    def allowed(batch_id: int, ids: Tensor) -> Any:
        names = processor.tokenizer
        closing = (names.eof_token_id, names.eoi_token_id, names.eos_token_id)
        line_end = names.encode("<|extra_200|>", return_tensors="pt")[0]
        header = torch.tensor([names.image_wrapper_token_id], device=model.device)
        offset = ids.shape[0] - torch.nonzero(ids == header, as_tuple=True)[0][0]
        past = offset - (width + 1) * height
        if offset % (width + 1) == 0:
            return (line_end,)
        if past > 3:
            return (torch.tensor([names.pad_token_id]),)
        return (torch.tensor([closing[past - 1]]),) if past > 0 else visual

    return allowed


@pytest.mark.parametrize("limit", [60, 9])
def test_a_function_as_the_seed_writes_it(
    pair: Pair, engine: Engine, loop: Callable[..., Any], limit: int
) -> None:
    arguments = call(pair) | {"max_new_tokens": limit}
    with_ours = pair.ours.generate(**arguments)
    arguments["prefix_allowed_tokens_fn"] = seed_way(pair, arguments)
    assert torch.equal(pair.ours.generate(**arguments), with_ours)
    assert engine.calls == 2
    assert torch.equal(loop(pair.ours, **arguments), with_ours)
    streamer = Collector()
    one = {**arguments, **first_row(arguments)} | {"attention_mask": None, "streamer": streamer}
    pair.ours.generate(**one)
    assert engine.calls == 2  # shown ids cannot be taken back


def picky(pair: Pair, arguments: dict[str, Any]) -> Callable[[int, Tensor], Any]:
    """Looks like the grid, but what was drawn decides what may follow."""
    whole = pair.ours.vocabulary_mapping.image_tokens
    first, half = whole[0], whole[: len(whole) // 2]
    rule = arguments["prefix_allowed_tokens_fn"]
    height, width, ids_of = rule.heights[0], rule.widths[0], rule.vocabulary
    header, line_end = ids_of.image_token, ids_of.end_of_line
    closing = [ids_of.end_of_frame, ids_of.image_end, ids_of.eos]

    def allowed(batch_id: int, ids: Tensor) -> Any:
        offset = int(ids.shape[0]) - int(torch.nonzero(ids == header)[0][0])
        past = offset - (width + 1) * height
        if offset % (width + 1) == 0:
            return [line_end]
        if past > 0:
            return [closing[past - 1]]
        before = int(ids[-1])
        return whole if before == first or before == header or before == line_end else half

    return allowed


def test_a_function_that_looks_at_what_was_drawn(
    pair: Pair, engine: Engine, loop: Callable[..., Any]
) -> None:
    """The engine's attempt is thrown away: the loop draws."""
    arguments = call(pair)
    expected_without = pair.ours.generate(**arguments)
    arguments["prefix_allowed_tokens_fn"] = picky(pair, arguments)
    got = pair.ours.generate(**arguments)
    assert engine.calls == 2
    assert torch.equal(got, loop(pair.ours, **arguments))
    assert not torch.equal(got, expected_without)


def test_functions_that_leave_something_behind_are_called_once_a_step(
    pair: Pair, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = call(pair, 1)
    grid, calls, count = arguments["prefix_allowed_tokens_fn"], [0], 0

    def counts(row: int, ids: Tensor) -> Any:
        calls[0] += 1
        return grid(row, ids)

    def binds(row: int, ids: Tensor) -> Any:
        nonlocal count
        count += 1
        return grid(row, ids)

    def shows(row: int, ids: Tensor) -> Any:
        print("x", end="")
        return grid(row, ids)

    class Counter:
        calls = 0

        def __call__(self, row: int, ids: Tensor) -> Any:
            self.calls += 1
            return grid(row, ids)

    counter = Counter()
    tokens = grid.heights[0] * (grid.widths[0] + 1) + 3
    for rule in (counts, binds, shows, counter):
        pair.ours.generate(**arguments | {"prefix_allowed_tokens_fn": rule})
    assert engine.calls == 0
    assert (calls[0], count, counter.calls) == (tokens, tokens, tokens)
    assert capsys.readouterr().out == "x" * tokens


# ---------------------------------------------------------------------------------------- sampling


def test_sampling_follows_torchs_generator(pair: Pair, engine: Engine) -> None:
    arguments = call(pair) | {"do_sample": True, "top_k": 20, "temperature": 0.9}
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(pair.ours.generate(**arguments))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert engine.calls == 3
    torch.manual_seed(1)
    assert torch.equal(
        pair.ours.generate(**arguments | {"do_sample": False})[:, -3:], drawn[0][:, -3:]
    )
    before = torch.get_rng_state()
    pair.ours.generate(**call(pair))
    assert torch.equal(before, torch.get_rng_state())


def test_samples_have_the_distribution_that_transformers_samples_from(
    pair: Pair, engine: Engine, loop: Callable[..., Any]
) -> None:
    count = 4000
    arguments = without(call(pair, 1), *GUIDANCE) | {"do_sample": True, "max_new_tokens": 1}
    arguments |= {"top_k": 12, "temperature": 1.7, "top_p": 0.95}
    torch.manual_seed(0)
    ids = pair.ours.generate(**arguments, num_return_sequences=count)[:, -1]
    assert engine.calls == 1
    scores = loop(pair.ours, **arguments, return_dict_in_generate=True, output_scores=True).scores
    expected = scores[0][0].softmax(-1) * count
    found = torch.bincount(ids, minlength=len(expected))
    assert not found[expected == 0].any()
    kept = expected > 0
    assert 3 < kept.sum() <= 12
    chi = ((found - expected)[kept] ** 2 / expected[kept]).sum()
    assert chi < 40  # 11 degrees of freedom: exceeded with probability 3e-5
