"""Supervised training of the bundled models on traces, and their scores by sampling."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from opd.bundled.problems import WordProblem
from opd.grading.graders import exact

MICRO_BATCH = 32
IGNORE = -100

Trace = tuple[str, str]


@dataclass(frozen=True)
class Accuracy:
    """Fraction of correct answers; `error` is its standard error."""

    value: float
    n: int

    @property
    def error(self) -> float:
        return math.sqrt(self.value * (1 - self.value) / self.n)

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Schedule:
    """AdamW with a linear warm-up to `learning_rate` and a cosine down to 5% of it at `steps`."""

    steps: int
    learning_rate: float
    warm_up: int

    def at(self, step: int) -> float:
        """The fraction of `learning_rate` at `step`."""
        done = 6 / 7 * step / self.steps
        return min(1.0, (step + 1) / self.warm_up) * (1 + math.cos(math.pi * done)) / 2


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch: Callable[[int], list[Trace]],
    schedule: Schedule,
    report: Callable[[int, float], None],
) -> None:
    """Cross-entropy of the completion's tokens with EOS; `batch(step)` gives (prompt, completion).

    `report(step, loss)` is called after each step; loss in nats, mean over completion tokens.
    """
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.at)
    for step in range(schedule.steps):
        examples = _encode(tokenizer, batch(step))
        total = sum(length for _, length in examples)
        loss = 0.0
        for start in range(0, len(examples), MICRO_BATCH):
            part = _loss_sum(model, examples[start : start + MICRO_BATCH]) / total
            torch.autograd.backward(part)
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        report(step, loss)


def _encode(tokenizer: PreTrainedTokenizerFast, traces: list[Trace]) -> list[tuple[list[int], int]]:
    """(ids, number of completion ids) of each trace, EOS at the end, the shortest first."""
    prompts = tokenizer([prompt for prompt, _ in traces])["input_ids"]
    completions = tokenizer([completion for _, completion in traces])["input_ids"]
    eos = tokenizer.eos_token_id
    pairs = zip(prompts, completions, strict=True)
    examples = [([*prompt, *completion, eos], len(completion) + 1) for prompt, completion in pairs]
    return sorted(examples, key=lambda example: len(example[0]))


def _loss_sum(model: PreTrainedModel, examples: list[tuple[list[int], int]]) -> torch.Tensor:
    width = max(len(ids) for ids, _ in examples)
    # Padding lies to the right of everything that is scored, so causal attention needs no mask.
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORE)
    for row, (tokens, length) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, len(tokens) - length : len(tokens)] = torch.tensor(tokens[-length:])
    logits = model(input_ids=ids.to(model.device), use_cache=False).logits  # (B, T, V)
    targets = labels[:, 1:].to(model.device)
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[str],
    *,
    temperature: float,
    seed: int = 0,
) -> list[str]:
    """A completion's text for each prompt; temperature 0 takes the likeliest token each time."""
    model.eval()
    encoded = tokenizer(prompts, padding=True, return_tensors="pt").to(model.device)
    torch.manual_seed(seed)
    chosen = (
        {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    )
    output = model.generate(**encoded, **chosen, top_k=0, top_p=1.0, max_new_tokens=96)
    completions = output[:, encoded["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(completions, skip_special_tokens=True)]


def score(completions: Iterable[str], problems: Iterable[WordProblem]) -> Accuracy:
    grades = [exact(text, p.answer) for text, p in zip(completions, problems, strict=True)]
    return Accuracy(sum(grades) / len(grades), len(grades))
