"""What a causal model must show with this product, or the reason for which it is refused.

Everything is compared with the model by itself: `generate` for greedy completions, and one forward
pass in float64 for log-probabilities, each on one unpadded row.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from bench.causal_models.tiny import EOS, PAD, tiny_config
from opd.errors import UserError
from opd.models.batches import Sequences
from opd.models.forward import completion_hidden, logits_of
from opd.models.load import Pair, load_pair
from opd.sampling.sample import Limits, Request, Sample, sample
from opd.training.scoring import Scoring, batch_of, score

CPU = torch.device("cpu")
PROMPTS = ((5, 9, 17), (30, 31, 32, 33, 40, 41, 42, 50, 51), (7, 8, 9, 10, 11))
NEW_TOKENS = 8
NEAR = 1e-4  # nats
SCALE = 4.0  # of the random weights: distributions far from uniform


@dataclass(frozen=True)
class Result:
    """`faults` names what differs, by how much; `refused` is the reason, at `student.model`."""

    kind: str
    faults: dict[str, float]
    refused: str = ""

    @property
    def right(self) -> bool:
        return not self.faults


def check(model_type: str, tokenizer: Any) -> Result:
    """Makes a tiny model of that type and puts it through everything."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save(model_type, folder, tokenizer)
        try:
            pair = load_pair(str(folder), str(folder), device=CPU)
        except UserError as error:
            if error.where != "student.model":
                raise
            return Result("refused", {}, str(error).partition(": ")[2])
        return Result("", dict(_faults(pair, folder)))


def save(model_type: str, folder: Path, tokenizer: Any) -> None:
    """Random weights, the same each time, with a tokenizer beside them."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and not any(part in name for part in ("norm", "conv")):
                parameter.mul_(SCALE)
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=PAD)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _faults(pair: Pair, folder: Path) -> Iterator[tuple[str, float]]:
    """Everything that is not as it must be."""
    with torch.no_grad():
        yield from _greedy(pair)
    samples = _samples(pair, [p for p in PROMPTS for _ in range(2)], temperature=1.0)
    prompts = [p for p in PROMPTS for _ in range(2)]
    whole = Sequences(prompts, [s.completion_ids for s in samples])
    records = score(pair, whole, Scoring())
    exact = _in_float64(folder)
    found: dict[str, list[float]] = {}
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
            found.setdefault(name, []).append(float(np.abs(student - values).max()))
    worst = {name: max(values) for name, values in found.items()}
    yield from ((name, value) for name, value in worst.items() if not value <= NEAR)
    yield from _gradient(pair, whole)


def _samples(pair: Pair, prompts: Any, temperature: float) -> list[Sample]:
    requests = [Request(p, (0, 0, i, 0)) for i, p in enumerate(prompts)]
    return sample(pair, requests, Limits(NEW_TOKENS, temperature, 16))


def _greedy(pair: Pair) -> Iterator[tuple[str, float]]:
    """Prompts whose greedy completion is not the model's own."""
    different = 0
    for prompt, ours in zip(PROMPTS, _samples(pair, PROMPTS, 0.0), strict=True):
        own = pair.teacher.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )[0, len(prompt) :]
        different += own.tolist() != ours.completion_ids.tolist()
    if different:
        yield "greedy", float(different)


def _in_float64(folder: Path) -> Any:
    try:  # grouped products of experts take no float64
        return _loaded(folder, experts_implementation="eager")
    except (TypeError, ValueError):
        return _loaded(folder)


def _loaded(folder: Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **options).eval()


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
    hidden = completion_hidden(pair.student, batch_of(replace(pair), whole))
    mean = logits_of(pair.student, hidden, vocab=pair.vocab).log_softmax(-1).mean()
    mean.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for p in pair.student.parameters() if p.grad is not None]
    norm = sum(float(g.norm()) for g in gradients)
    if not (np.isfinite(norm) and norm > 0):
        yield "gradient", norm
