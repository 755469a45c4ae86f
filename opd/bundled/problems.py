"""Small word problems with their right trace and an exact grader.

A problem is a chain of steps on one number that stays within 0..99, told in plain sentences:
"Ann has 7 apples. Ann buys 5 more. Ann loses 4. How many apples does Ann have now?"
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Split = Literal["train", "eval"]

MAX_PROBLEMS = 50_000
MAX_STEPS = 6
MAX_VALUE = 99
MAX_CHANGE = 20
MAX_START = 60

NAMES = ("Ann", "Ben", "Cara", "Dan", "Eve", "Finn")
ITEMS = ("apples", "books", "coins", "marbles", "pens", "stamps")
STARTS = ("{name} has {number} {items}.", "{name} starts with {number} {items}.")
QUESTIONS = (
    "How many {items} does {name} have now?",
    "How many {items} does {name} have in the end?",
)
WORDINGS = {
    "+": (
        "{name} buys {number} more.",
        "{name} finds {number} more.",
        "{name} gets {number} more.",
    ),
    "-": ("{name} gives away {number}.", "{name} loses {number}.", "{name} sells {number}."),
    "x2": ("{name} doubles the {items}.", "The number of {items} doubles."),
    "x3": ("{name} triples the {items}.", "The number of {items} triples."),
}
APPLY: dict[str, Callable[[int, int], int]] = {
    "+": lambda value, number: value + number,
    "-": lambda value, number: value - number,
    "x": lambda value, number: value * number,
}


@dataclass(frozen=True)
class WordProblem:
    """A word problem; `solution` is the right completion's text, without the EOS token."""

    prompt: str
    answer: str
    solution: str
    steps: int


@dataclass(frozen=True)
class Step:
    """One step of a problem: `before` (+, -, x) `number` is `after`."""

    operation: str
    before: int
    number: int

    @property
    def after(self) -> int:
        return APPLY[self.operation](self.before, self.number)

    def __str__(self) -> str:
        return f"{self.before} {self.operation} {self.number} = {self.after}."


@dataclass(frozen=True)
class Story:
    """What a problem tells, before it is put into words."""

    name: str
    items: str
    chain: tuple[Step, ...]

    @property
    def split(self) -> Split:
        # By its numbers, not its words: a held-out chain is not trained on under another name.
        key = f"{self.chain[0].before}" + "".join(f"{s.operation}{s.number}" for s in self.chain)
        held_out = hashlib.sha256(key.encode()).digest()[0] % 10 == 0
        return "eval" if held_out else "train"


def problems(n: int, *, seed: int, split: Split = "train", steps: int = 3) -> list[WordProblem]:
    """`n` distinct problems of `steps` steps, the same for the same arguments.

    Raises ValueError where an argument is outside its limits.
    """
    return [problem for _, problem in stories(n, seed=seed, split=split, steps=steps)]


def stories(
    n: int, *, seed: int, split: Split = "train", steps: int = 3
) -> list[tuple[Story, WordProblem]]:
    """The same as `problems`, each with the story that it tells."""
    _check("n", n, 0, MAX_PROBLEMS)
    _check("steps", steps, 1, MAX_STEPS)
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}, must be one of {', '.join(get_args(Split))}")
    rng = random.Random(f"{seed}/{split}/{steps}")
    by_prompt: dict[str, tuple[Story, WordProblem]] = {}
    while len(by_prompt) < n:
        story = _story(rng, steps)
        if story.split == split:
            problem = _in_words(rng, story)
            by_prompt.setdefault(problem.prompt, (story, problem))
    return list(by_prompt.values())


def _check(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{field} is {value}, must be from {low} to {high}")


def _story(rng: random.Random, steps: int) -> Story:
    value = rng.randint(1, MAX_START)
    chain = []
    for _ in range(steps):
        chain.append(_step(rng, value))
        value = chain[-1].after
    return Story(rng.choice(NAMES), rng.choice(ITEMS), tuple(chain))


def _step(rng: random.Random, value: int) -> Step:
    while True:
        operation = rng.choice("++--x")
        number = rng.randint(2, 3) if operation == "x" else rng.randint(1, MAX_CHANGE)
        step = Step(operation, value, number)
        # Nothing can be multiplied, but "doubles the 0 apples" reads as a trick question.
        if 0 <= step.after <= MAX_VALUE and (operation != "x" or value):
            return step


def _in_words(rng: random.Random, story: Story) -> WordProblem:
    words = {"name": story.name, "items": story.items}
    first = rng.choice(STARTS).format(number=story.chain[0].before, **words)
    middle = [
        rng.choice(WORDINGS[f"x{step.number}" if step.operation == "x" else step.operation]).format(
            number=step.number, **words
        )
        for step in story.chain
    ]
    prompt = " ".join([first, *middle, rng.choice(QUESTIONS).format(**words)])
    answer = str(story.chain[-1].after)
    thought = " ".join(map(str, story.chain))
    return WordProblem(prompt, answer, f"<think> {thought} </think> {answer}", len(story.chain))
