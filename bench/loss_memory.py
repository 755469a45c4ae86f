"""Memory of the loss: pieces of tokens, each with its gradient, against the whole at once.

    python -m bench.loss_memory [--pairs 3] [--quick]

2,048 tokens with hidden states of 64, both models' heads, and the gradient of the student's hidden
states and head. "ours" is the loop of `opd.training.update`: logits of a piece, both
log-softmaxes, the loss, backward. "naive" makes all logits and writes the divergence out in plain
torch (log_softmax of both, then kl_div, or the mixture's). Every measurement is a process of its
own; memory is its peak of resident bytes above what it held before the loss. Gradients are
compared by their norm.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, linear, log_softmax

from opd.config.sections import ObjectiveConfig
from opd.loss import divergences
from opd.loss.objective import LossInputs
from opd.loss.token_losses import token_losses
from opd.models.forward import piece_values, spans

TOKENS, HIDDEN = 2048, 64
THREADS = torch.get_num_threads()  # as OMP_NUM_THREADS says
OBJECTIVES = {
    "reverse_kl": ObjectiveConfig.model_validate({"name": "reverse_kl"}),
    "forward_kl": ObjectiveConfig.model_validate({"name": "forward_kl"}),
    "jsd": ObjectiveConfig.model_validate({"name": "jsd", "beta": 0.5}),
}


@dataclass(frozen=True)
class Heads:
    """The student's states (N, D) and head (V, D) take a gradient, the teacher's do not."""

    states: Tensor
    head: Tensor
    teacher_states: Tensor
    teacher_head: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Spent:
    bytes: int
    seconds: float
    gradients: tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1,000 ids, reverse KL, one pair")
    options = parser.parse_args()
    pairs = 1 if options.quick else options.pairs
    print(f"{TOKENS} tokens, {THREADS} threads; memory in MB, medians of {pairs}")
    print(
        f"{'vocabulary':>10} {'loss':11} {'naive':>7} {'ours':>7} {'share':>6} "
        f"{'naive s / ours s':>18} {'gradient':>9}"
    )
    for vocab in (1_000,) if options.quick else (32_000, 151_936):
        for name in ("reverse_kl",) if options.quick else OBJECTIVES:
            report(vocab, name, pairs)


def report(vocab: int, name: str, pairs: int) -> None:
    spent = [(apart(naive, vocab, name), apart(in_pieces, vocab, name)) for _ in range(pairs)]
    theirs, ours = (statistics.median(s[i].bytes for s in spent) / 1e6 for i in (0, 1))
    speed = [a.seconds / b.seconds for a, b in spent]
    gradient = max(
        float((x - y).norm() / x.norm())
        for x, y in zip(spent[0][0].gradients, spent[0][1].gradients, strict=True)
    )
    print(
        f"{vocab:10,} {name:11} {theirs:7.0f} {ours:7.0f} {ours / theirs:6.1%} "
        f"{statistics.median(speed):6.2f} ({min(speed):.2f} to {max(speed):.2f}) {gradient:9.1e}",
        flush=True,
    )
    if gradient > 1e-5:
        raise SystemExit("the gradients differ")


Loss = Callable[[Heads, str], None]


def apart(loss: Loss, vocab: int, name: str) -> Spent:
    """What the loss takes in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (loss, vocab, name))


def measured(loss: Loss, vocab: int, name: str) -> Spent:
    torch.set_num_threads(THREADS)
    loss(made(64), name)  # kernels and their buffers are there before
    heads = made(vocab)
    heads.states.grad, heads.head.grad = (
        torch.zeros_like(heads.states),
        torch.zeros_like(heads.head),
    )
    before = resident()
    start = time.perf_counter()
    loss(heads, name)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Spent(peak - before, seconds, (heads.states.grad, heads.head.grad))


def resident() -> int:
    """Bytes held now; the peak so far is no more, as nothing large was freed yet."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def made(vocab: int) -> Heads:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    return Heads(
        states=normal(TOKENS, HIDDEN).requires_grad_(),
        head=(normal(vocab, HIDDEN) / 8).requires_grad_(),
        teacher_states=normal(TOKENS, HIDDEN),
        teacher_head=normal(vocab, HIDDEN) / 8,
        targets=torch.randint(vocab, (TOKENS,), generator=random),
    )


def in_pieces(heads: Heads, name: str) -> None:
    config = OBJECTIVES[name]
    ones = torch.ones(TOKENS)
    vocab = len(heads.head)
    limit = piece_values(vocab, heads.head.device)
    for cut in spans(TOKENS, vocab=vocab, limit=limit):
        with torch.no_grad():
            logits = linear(heads.teacher_states[cut], heads.teacher_head)
            teacher = divergences.log_probs(logits, 1.0)
        student = divergences.log_probs(linear(heads.states[cut], heads.head), 1.0)
        inputs = LossInputs(
            student=student,
            targets=heads.targets[cut],
            sampler=0 * ones[cut],
            mask=ones[cut],
            teacher=teacher,
        )
        (token_losses(inputs, config).loss.sum() / TOKENS).backward()  # type: ignore[no-untyped-call]


def naive(heads: Heads, name: str) -> None:
    student = log_softmax(linear(heads.states, heads.head), dim=-1)
    with torch.no_grad():
        teacher = log_softmax(linear(heads.teacher_states, heads.teacher_head), dim=-1)

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return kl_div(b, a, reduction="sum", log_target=True)

    if name == "reverse_kl":
        total = kl(student, teacher)
    elif name == "forward_kl":
        total = kl(teacher, student)
    else:
        mixture = torch.logsumexp(torch.stack([student, teacher]), dim=0) - torch.tensor(2.0).log()
        total = 0.5 * kl(teacher, mixture) + 0.5 * kl(student, mixture)
    (total / TOKENS).backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
