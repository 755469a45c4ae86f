"""How good the student is on prompts it is never trained on."""

import math
from collections.abc import Callable, Sequence

from opd.config import RunConfig
from opd.data import Prompt
from opd.models import Pair
from opd.rollouts import Written, write_evaluation
from opd.types import Score

SUITE = "heldout"


def suite_name(temperature: float, training_temperature: float) -> str:
    """`heldout` at the training temperature, `heldout-greedy` at 0, else with the temperature."""
    if temperature == training_temperature:
        return SUITE
    return f"{SUITE}-greedy" if temperature == 0 else f"{SUITE}-t{temperature:g}"


def proportion(suite: str, metric: str, values: Sequence[float]) -> Score:
    """The mean of 0/1 values with its binomial standard error √(p (1 − p) / n)."""
    mean = sum(values) / len(values)
    return Score(suite, metric, mean, len(values), math.sqrt(mean * (1 - mean) / len(values)))


def evaluate(
    pair: Pair, prompts: Sequence[Prompt], config: RunConfig, stop: Callable[[], bool]
) -> tuple[list[Score], list[Written]]:
    """Scores at every configured temperature, and the rollouts of the first of them.

    Per suite: pass@1 where the prompts can be graded, and the share that came to an end.
    """
    scores: list[Score] = []
    shown: list[Written] = []
    for temperature in config.evaluation.temperatures:
        written = write_evaluation(pair, prompts, config, temperature=temperature, stop=stop)
        suite = suite_name(temperature, config.sampling.temperature)
        rewards = [w.reward for w in written if w.reward is not None]
        if rewards:
            scores.append(proportion(suite, "pass@1", rewards))
        ended = [float(w.sample.finish_reason == "stop") for w in written]
        scores.append(proportion(suite, "finished", ended))
        shown = shown or written
    return scores, shown
