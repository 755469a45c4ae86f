"""What a causal model must show with this product, or the reason for which it is refused.

Everything is compared with the model by itself: `generate` for greedy completions, and one forward
pass in float64 for log-probabilities, each on one unpadded row.
"""

import json
import math
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bench.causal_models.tiny import EOS, PAD, tiny_config
from opd.config.layer_kinds import kinds
from opd.config.model_files.kind import ENCODERS, other_kind
from opd.errors import UserError, one_line
from opd.models.batches import Sequences
from opd.models.forward import completion_hidden, logits_of, route_of
from opd.models.load import Pair, load_pair
from opd.models.routes import CANNOT
from opd.sampling import decoding, fixed_decoder
from opd.sampling.decoder import OwnCacheDecoder, RereadingDecoder
from opd.sampling.decoding import decoding_of, fixed_decoder_of
from opd.sampling.sample import Limits, Request, Sample, sample
from opd.training.scoring import Scoring, batch_of, score

CPU = torch.device("cpu")
PROMPTS = ((5, 9, 17), (30, 31, 32, 33, 40, 41, 42, 50, 51), (7, 8, 9, 10, 11))
NEW_TOKENS = 8
NEAR = 1e-4  # nats
BORDER = 4  # slots of the decoder for GPUs, so that short completions cross several
SCALE = 4.0  # of the random weights: distributions far from uniform


@dataclass(frozen=True)
class ModelCheck:
    """`faults` names what differs, by how much; `refused` is the reason, at `student.model`; `way`
    is how the model is read where that is not the usual way."""

    kind: str
    faults: dict[str, float]
    refused: str = ""
    way: str = ""


def check(model_type: str, tokenizer: Any) -> ModelCheck:
    """Makes a tiny model of that type and puts it through everything."""
    other = other_kind({"model_type": model_type, "is_decoder": True})
    if other is not None:  # few of them can be made without the models that they belong to
        return ModelCheck("–", {}, other.partition(" (model_type")[0])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            config = save(model_type, folder, tokenizer)
        except ImportError as error:  # as it would be refused where it is loaded
            named = re.search(r"requires the (\w+) library", str(error))
            reason = f"needs the package {named[1]}" if named else one_line(error)
            return ModelCheck("wrapper", {}, reason)
        kind = ", ".join(kinds(config))
        try:
            pair = load_pair(str(folder), str(folder), device=CPU)
        except UserError as error:
            if error.where != "student.model":
                raise
            reason = str(error).removeprefix("student.model: ").removeprefix(f"{folder} ")
            return ModelCheck(kind, {}, reason)
        return ModelCheck(kind, dict(_faults(pair, folder)), way=_way(model_type, pair))


def _way(model_type: str, pair: Pair) -> str:
    """What is unusual in how the student is read and writes, and in which folders it may lie."""
    route = route_of(pair.student)
    plain = CONFIG_MAPPING[model_type]()
    parts = (
        "decoder-only folders" if getattr(plain, "is_encoder_decoder", False) else "",
        "folders with is_decoder" if model_type in ENCODERS else "",
        "row by row" if route.alone else "whole passes" if route.backbone is None else "",
        _decoder(pair),
    )
    return ", ".join(part for part in parts if part)


def _decoder(pair: Pair) -> str:
    made = decoding_of(pair.student, CPU).make
    names: dict[Any, str] = {
        OwnCacheDecoder: "with its own cache",
        RereadingDecoder: "without a cache",
    }
    return names.get(made, "")


def save(model_type: str, folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Random weights, the same each time, with a tokenizer beside them; returns config.json.

    A wrapper's text model is saved under the wrapper's own type, by which it is loaded.
    """
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and not any(part in name for part in ("norm", "conv")):
                parameter.mul_(SCALE)
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        wrapper = tiny_config(model_type)
        wrapper.architectures = [type(model).__name__]
        wrapper.save_pretrained(folder)
    return config


def _faults(pair: Pair, folder: Path) -> Iterator[tuple[str, float]]:
    """Everything that is not as it must be."""
    with torch.no_grad():
        yield from _greedy(pair)
    prompts = [p for p in PROMPTS for _ in range(2)]
    samples = _samples(pair, prompts, temperature=1.0)
    whole = Sequences(prompts, [s.completion_ids for s in samples])
    records = score(pair, whole, Scoring())
    exact = _exact(folder)
    differences: dict[str, list[float]] = {}
    for number, (written, record) in enumerate(zip(samples, records, strict=True)):
        alone = score(pair, whole.take([number]), Scoring())[0]
        student = record.student_logprobs
        others = {
            "sampler": written.sampler_logprobs,
            "teacher": record.teacher_logprobs,
            "one row": alone.student_logprobs,
            "float64": _log_probs(exact, prompts[number], written),
        }
        for name, values in others.items():
            assert student is not None and values is not None
            differences.setdefault(name, []).append(float(np.abs(student - values).max()))
    worst = {name: max(values) for name, values in differences.items()}
    yield from ((name, value) for name, value in worst.items() if not value <= NEAR)
    yield from _replayed(pair, prompts, samples)
    yield from _gradient(pair, whole)


def _samples(pair: Pair, prompts: Any, temperature: float) -> list[Sample]:
    requests = [Request(p, (0, 0, i, 0)) for i, p in enumerate(prompts)]
    return sample(pair, requests, Limits(NEW_TOKENS, temperature, 16))


def _replayed(pair: Pair, prompts: Any, samples: list[Sample]) -> Iterator[tuple[str, float]]:
    """How far the decoder for GPUs is from the same samples, where it takes the model."""
    short = patch.object(fixed_decoder, "BORDER", BORDER)
    with short, patch.object(decoding, "FIXED_ON", ("cpu",)):
        if fixed_decoder_of(pair.student, CPU) is None:
            return
        replayed = _samples(pair, prompts, temperature=1.0)
    for a, b in zip(samples, replayed, strict=True):
        assert a.sampler_logprobs is not None and b.sampler_logprobs is not None
        if a.completion_ids.tolist() != b.completion_ids.tolist():
            yield "replayed", math.inf
        elif not (gap := float(np.abs(a.sampler_logprobs - b.sampler_logprobs).max())) <= NEAR:
            yield "replayed", gap


def _greedy(pair: Pair) -> Iterator[tuple[str, float]]:
    """Prompts whose greedy completion is not the model's own."""
    ours = [s.completion_ids.tolist() for s in _samples(pair, PROMPTS, 0.0)]
    try:
        generated = [_generated(pair.teacher, prompt) for prompt in PROMPTS]
    except CANNOT:  # few models cannot even generate
        generated = [_continued(pair.teacher, prompt) for prompt in PROMPTS]
    different = sum(a != b for a, b in zip(ours, generated, strict=True))
    if different:
        yield "greedy", float(different)


def _generated(model: Any, prompt: tuple[int, ...]) -> list[int]:
    whole = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
    )
    ids: list[int] = whole[0, len(prompt) :].tolist()
    return ids


def _continued(model: Any, prompt: tuple[int, ...]) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW_TOKENS and ids[len(prompt) :][-1:] != [EOS]:
        ids.append(
            int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        )
    return ids[len(prompt) :]


def _exact(folder: Path) -> Any:
    """The model in float64; in float32 where its code has numbers that only float32 holds."""
    for options in ({"experts_implementation": "eager"}, {}, {"dtype": torch.float32}):
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, **{"dtype": torch.float64} | options
            ).eval()
            with torch.no_grad():
                model(input_ids=torch.tensor([PROMPTS[0]]), use_cache=False)
        except CANNOT:
            continue
        return model
    raise AssertionError("the model reads in no precision")


@torch.no_grad()
def _log_probs(model: Any, prompt: tuple[int, ...], written: Sample) -> np.ndarray:
    ids = torch.tensor([[*prompt, *written.completion_ids]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
    targets = torch.as_tensor(written.completion_ids).unsqueeze(1)
    at: np.ndarray = logits.log_softmax(-1).gather(1, targets).squeeze(1).numpy()
    return at


def _gradient(pair: Pair, whole: Sequences) -> Iterator[tuple[str, float]]:
    """One backward pass over all weights: finite, and not zero everywhere."""
    pair.student.requires_grad_(True)
    hidden = completion_hidden(pair.student, batch_of(pair, whole))
    mean = logits_of(pair.student, hidden, vocab=pair.vocab).log_softmax(-1).mean()
    mean.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in pair.student.parameters() if p.grad is not None]
    norm = sum(float(g.norm()) for g in gradients)
    if not (np.isfinite(norm) and norm > 0):
        yield "gradient", norm
