"""From prompts to graded completions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opd.align import Sequences
from opd.config import RunConfig
from opd.data import Prompt
from opd.grading import reward
from opd.models import Pair
from opd.sampling import Limits, Request, Sample, sample

EVALUATION = 1_000_000_000  # added to the step in an evaluation's seed: its samples are its own


@dataclass(frozen=True)
class Written:
    """One completion of one prompt, before anybody scored its tokens."""

    prompt: Prompt
    number: int  # of this completion within its group
    sample: Sample
    text: str
    reward: float | None


def write(
    pair: Pair,
    prompts: Sequence[Prompt],
    config: RunConfig,
    *,
    step: int,
    stop: Callable[[], bool],
) -> list[Written]:
    """`group_size` completions of each prompt, as training sees them."""
    limits = Limits(
        config.sampling.max_new_tokens, config.sampling.temperature, config.sampling.batch_size
    )
    jobs = [(p, g) for p in prompts for g in range(config.sampling.group_size)]
    return _write(pair, jobs, limits, config, step, stop)


def write_evaluation(
    pair: Pair,
    prompts: Sequence[Prompt],
    config: RunConfig,
    *,
    temperature: float,
    stop: Callable[[], bool],
) -> list[Written]:
    """One completion of each held-out prompt; the same random numbers at every evaluation."""
    limits = Limits(config.sampling.max_new_tokens, temperature, config.sampling.batch_size)
    return _write(pair, [(p, 0) for p in prompts], limits, config, EVALUATION, stop)


def sequences(written: Sequence[Written]) -> Sequences:
    return Sequences([w.prompt.ids for w in written], [w.sample.completion_ids for w in written])


def _write(
    pair: Pair,
    jobs: Sequence[tuple[Prompt, int]],
    limits: Limits,
    config: RunConfig,
    step: int,
    stop: Callable[[], bool],
) -> list[Written]:
    requests = [Request(p.ids, (config.seed, step, p.number, g)) for p, g in jobs]
    samples = sample(pair, requests, limits, stop)
    texts = pair.tokenizer.batch_decode(
        [s.completion_ids for s in samples], skip_special_tokens=True
    )
    return [
        Written(p, g, s, text, reward(config.prompts.grader, text, p.answer))
        for (p, g), s, text in zip(jobs, samples, texts, strict=True)
    ]
