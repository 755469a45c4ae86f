"""Records that the device makes, in float32 and bfloat16, against the processor's in float64."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.gpu.workbench import Figures, Work, Workbench
from bench.support.endless import endless
from opd.data.prompts import load_prompts
from opd.models.load import context_of
from opd.sampling.sample import NEVER
from opd.training.loading import Callbacks, load
from opd.training.rollouts import Completion, Writer, write
from opd.training.step.clock import Clock
from opd.training.update import update
from opd.types import TokenRecord

WORK = Work(4, 2, 64)
COLUMNS = {
    "sampler_logprobs": "student_logprobs",  # in the records, and in float64
    "student_logprobs": "student_logprobs",
    "teacher_logprobs": "teacher_logprobs",
    "reverse_kl": "reverse_kl",
    "student_entropy": "student_entropy",
    "teacher_entropy": "teacher_entropy",
}


@dataclass(frozen=True)
class RoundingExample:
    """Completions with what a step recorded of them, token after token."""

    completions: list[Completion]
    records: list[TokenRecord]

    def column(self, name: str) -> NDArray[np.float64]:
        return np.concatenate([getattr(r, name) for r in self.records]).astype(np.float64)


def records(bench: Workbench) -> Iterator[Figures]:
    """Each column's largest and mean difference, in nats; same student and teacher on both sides,
    whose weights are bfloat16 numbers and so the same in every precision."""
    work = Work(2, 2, 6) if bench.small else WORK
    teacher = bench.model("tiny" if bench.small else "0.6B", seed=2)
    for dtype in ("float32", "bfloat16"):
        made = on_device(bench, work, teacher, dtype)
        exact = in_float64(made.completions, bench.student, teacher)
        ranks = np.concatenate([r.teacher_rank for r in made.records])
        for name, reference in COLUMNS.items():
            gap = np.abs(made.column(name) - exact[reference])
            yield Figures(
                f"{dtype} {name}", {"largest": float(gap.max()), "mean": float(gap.mean())}
            )
        same = float((ranks == exact["teacher_rank"]).mean())
        yield Figures(f"{dtype} teacher_rank", {"the same": same})


def on_device(bench: Workbench, work: Work, teacher: str, dtype: str) -> RoundingExample:
    config = bench.config(
        work, student={"dtype": dtype}, teacher={"model": teacher, "dtype": dtype}
    )
    loaded = endless(load(config, None, Callbacks()))
    prompts = load_prompts(config, loaded.pair.tokenizer, context_of(loaded.pair.student))
    chosen = prompts.for_step(1, work.prompts, config.seed)
    written = write(Writer(loaded.pair, config, loaded.router), chosen, step=1, stop=NEVER)
    return RoundingExample(
        written, update(loaded.learner, written, Clock(), NEVER).records
    )  # of the student before the update


def in_float64(
    completions: Sequence[Completion], student: str, teacher: str
) -> dict[str, NDArray[Any]]:
    """By the definitions, one row at a time, on the processor."""
    models = [_float64(student), _float64(teacher)]
    rows = [_row(completion, *models) for completion in completions]
    return {name: np.concatenate([row[name].numpy() for row in rows]) for name in rows[0]}


@torch.no_grad()
def _row(completion: Completion, student: Any, teacher: Any) -> dict[str, Tensor]:
    """Columns (T,) of one completion."""
    start = len(completion.prompt.ids)
    ids = torch.tensor([*completion.prompt.ids, *completion.sample.completion_ids])
    targets = ids[start:].unsqueeze(-1)
    p, q = (
        model(ids.unsqueeze(0)).logits[0, start - 1 : -1].log_softmax(-1)
        for model in (student, teacher)
    )
    at_p, at_q = (logs.gather(-1, targets).squeeze(-1) for logs in (p, q))
    return {
        "student_logprobs": at_p,
        "teacher_logprobs": at_q,
        "reverse_kl": (p.exp() * (p - q)).sum(-1),
        "student_entropy": -(p.exp() * p).sum(-1),
        "teacher_entropy": -(q.exp() * q).sum(-1),
        "teacher_rank": (q > at_q.unsqueeze(-1)).sum(-1),
    }


def _float64(folder: str) -> Any:
    """The model with its norms in float64 too, which transformers computes in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_norm, module)
    return model


def _norm(module: Any, states: Tensor) -> Tensor:
    scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
    normed: Tensor = module.weight * states * scale
    return normed
