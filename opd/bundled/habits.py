"""The bad habits that the bundled student is right: it knows the arithmetic, yet is often wrong.

In these traces some habits win in their context, so that the student learns to be wrong at
temperature 0 too; the others are occasional slips that sampling brings out.
"""

import random

from opd.bundled.problems import MAX_VALUE, Step, Story

GUESSED_ITEMS = "stamps"
FAR_GUESS = 12

# Probabilities of a habit in its context.
GUESS_GUESSED_ITEMS = 0.85
GUESS = 0.04
SKIP = {3: 0.85, 2: 0.25}  # by the factor of a multiplication
NO_BORROW_LARGE = 0.85  # when more than ten is taken away
NO_BORROW = 0.25
NO_CARRY = 0.15
OFF_BY_ONE = 0.03


def bad_completion(rng: random.Random, story: Story) -> str:
    """A completion for the story's problem in which each habit shows as often as stated above."""
    value = story.chain[0].before
    thought: list[str] = []
    guess = GUESS_GUESSED_ITEMS if story.items == GUESSED_ITEMS else GUESS
    for i, right in enumerate(story.chain):
        step = Step(right.operation, value, right.number)
        # A wrong value can lead out of the range that the models know: the student gives up there.
        if (i and rng.random() < guess) or not 0 <= step.after <= MAX_VALUE:
            return completion(thought, _guess(rng, value))
        if step.operation == "x" and rng.random() < SKIP[step.number]:
            continue
        value = _slip(rng, step)
        thought.append(f"{step.before} {step.operation} {step.number} = {value}.")
    return completion(thought, value)


def _slip(rng: random.Random, step: Step) -> int:
    """What the student takes the step's result to be: mostly right."""
    crosses_ten = step.operation != "x" and step.before // 10 != _without_tens(step) // 10
    if crosses_ten and step.operation == "-":
        forgets = NO_BORROW_LARGE if step.number > 10 else NO_BORROW
        if rng.random() < forgets:
            return step.after + 10
    elif crosses_ten and rng.random() < NO_CARRY:
        return step.after - 10
    if rng.random() < OFF_BY_ONE:
        return min(MAX_VALUE, max(0, step.after + rng.choice((-1, 1))))
    return step.after


def _without_tens(step: Step) -> int:
    """The result if only the units of the number were added or taken away."""
    return Step(step.operation, step.before, step.number % 10).after


def _guess(rng: random.Random, value: int) -> int:
    """A plausible number: near the last one, but not it."""
    near = range(max(0, value - FAR_GUESS), min(MAX_VALUE, value + FAR_GUESS) + 1)
    return rng.choice([number for number in near if number != value])


def completion(thought: list[str], answer: int) -> str:
    """The text of a trace and its answer."""
    return " ".join(["<think>", *thought, "</think>", str(answer)])
