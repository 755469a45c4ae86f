"""Verifiable rewards: does a completion give the right answer?"""

from collections.abc import Callable

THINK_END = "</think>"


def exact(completion: str, answer: str) -> float:
    """1.0 when the text after the last </think> (all of it where there is none) is the answer."""
    return float(completion.rpartition(THINK_END)[2].strip() == answer.strip())


GRADERS: dict[str, Callable[[str, str], float]] = {"exact": exact}


def reward(grader: str, completion: str, answer: str | None) -> float | None:
    """1 for right, 0 for wrong; None where there is no grader or nothing to compare with."""
    if grader == "none" or answer is None:
        return None
    return GRADERS[grader](completion, answer)
