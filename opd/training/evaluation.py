"""How good the student is on prompts it is never trained on."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from opd.config.data import DataConfig
from opd.data.prompts import Prompt, PromptSet
from opd.training.rollouts import Completion, Writer, write_evaluation
from opd.types import HELD_OUT, Score


def suite_name(suite: str, temperature: float, training_temperature: float) -> str:
    """The suite's own name at the training temperature, `-greedy` at 0, else the temperature."""
    if temperature == training_temperature:
        return suite
    return f"{suite}-greedy" if temperature == 0 else f"{suite}-t{temperature:g}"


def proportion(suite: str, metric: str, values: Sequence[float]) -> Score:
    """The mean of 0/1 values with its binomial standard error √(p (1 − p) / n)."""
    mean = sum(values) / len(values)
    return Score(suite, metric, mean, len(values), math.sqrt(mean * (1 - mean) / len(values)))


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """1 − C(n − c, k) / C(n, k): the chance that k of n samples hold a right one, unbiased.

    Source: Chen et al., arXiv 2107.03374.
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def pass_score(suite: str, k: int, rewards: Sequence[Sequence[float]]) -> Score:
    """pass@k over prompts, one list of 0/1 rewards each; its standard error is that over prompts.

    With one sample a prompt and k = 1 that is the binomial one.
    """
    if all(len(r) == 1 for r in rewards):
        return proportion(suite, f"pass@{k}", [r[0] for r in rewards])
    values = [pass_at_k(int(sum(r)), len(r), k) for r in rewards]
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Score(suite, f"pass@{k}", float(np.mean(values)), len(values), error)


def evaluate(
    writer: Writer, prompts: PromptSet, stop: Callable[[], bool], *, ends: bool = True
) -> tuple[list[Score], list[Completion], list[Completion]]:
    """Scores of every suite at every configured temperature, and rollouts of the first of them.

    Per suite: pass@k where the prompts can be graded, and the share that finished. Last come
    the answers to the probe prompts, which are written together with the first rollouts and count
    in no score. `ends`: this is the first or the last evaluation, which asks every suite.
    """
    scores: list[Score] = []
    shown: list[Completion] = []
    probed: list[Completion] = []
    probes = {p.number for p in prompts.probe}
    suites: list[tuple[str, Sequence[Prompt], DataConfig | None]] = [
        (HELD_OUT, prompts.held_out, None),
        *((s.name, s.prompts, s.data) for s in prompts.suites.values() if ends or not s.at_ends),
    ]
    for name, held_out, data in suites:
        for temperature in writer.config.evaluation.temperatures:
            batch = held_out if shown else [*held_out, *prompts.probe]
            completions = write_evaluation(
                writer, batch, temperature=temperature, stop=stop, data=data
            )
            if not shown:
                probed = [c for c in completions if c.prompt.number in probes]
                completions = [c for c in completions if c.prompt.number not in probes]
            suite = suite_name(name, temperature, writer.config.sampling.temperature)
            scores += scores_of(suite, completions, writer.config.evaluation.pass_at)
            shown = shown or completions
    return scores, shown, probed


def scores_of(suite: str, completions: Sequence[Completion], ks: Sequence[int]) -> list[Score]:
    """pass@k for each k that every prompt has samples for, where they were graded; and finished."""
    rewards: dict[int, list[float]] = {}
    for c in completions:
        if c.reward is not None:
            rewards.setdefault(c.prompt.number, []).append(c.reward)
    scores = []
    if rewards:
        most = min(map(len, rewards.values()))
        scores = [pass_score(suite, k, list(rewards.values())) for k in ks if k <= most]
    finished = [float(c.sample.finish_reason == "stop") for c in completions]
    return [*scores, proportion(suite, "finished", finished)]


def headline(scores: Sequence[Score]) -> float | None:
    """The held-out pass@1 at the training temperature, else the first one."""
    accuracies = [s for s in scores if s.metric == "pass@1"]
    accuracies.sort(key=lambda s: s.suite != HELD_OUT)
    return accuracies[0].value if accuracies else None
