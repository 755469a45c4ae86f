"""The start of the experiment self-distillation: a model with many slips, each of its own kind.

A kind of step is its operation and the last digit of its number: 22 in all. Each kind has one wrong
result of its own, so that reward, which says only whether the whole answer is right, has to put
right every kind on its own; a teacher shows all of them at every token.

`python -m opd.bundled.slips FOLDER` makes it from the bundled teacher, in half a minute.
"""

import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opd.bundled.habits import completion
from opd.bundled.make import HERE, save
from opd.bundled.problems import MAX_VALUE, Step, Story, stories
from opd.bundled.training import Schedule, Trace, train

OPERATIONS = "+-x"
OFFSETS = (1, -1, 10, -10, 2, -2)
RATE = 0.6  # of a slip, at every step

# Problems in a batch, by their number of steps.
MIX = {3: 6, 4: 8, 5: 10, 6: 12}
SCHEDULE = Schedule(steps=60, learning_rate=5e-4, warm_up=10)
SEED = 2_000_000  # other problems than the bundled models were trained on


def slip(step: Step) -> int:
    """The wrong result that belongs to this kind of step."""
    kind = OPERATIONS.index(step.operation) * 10 + step.number % 10
    return step.after + OFFSETS[kind % len(OFFSETS)]


def slipping_completion(rng: random.Random, story: Story, rate: float) -> str:
    """A completion that goes on with the wrong result at each step with probability `rate`.

    Where a result would leave 0..99, which the models do not know, there is no slip, or the
    completion answers with what it has.
    """
    value = story.chain[0].before
    thought: list[str] = []
    for right in story.chain:
        step = Step(right.operation, value, right.number)
        if not 0 <= step.after <= MAX_VALUE:
            break
        wrong = slip(step)
        slips = rng.random() < rate and 0 <= wrong <= MAX_VALUE
        value = wrong if slips else step.after
        thought.append(f"{step.before} {step.operation} {step.number} = {value}.")
    return completion(thought, value)


def slipping_traces(step: int) -> list[Trace]:
    """One batch of the start's training."""
    seed = SEED + step
    rng = random.Random(seed)
    return [
        (problem.prompt, slipping_completion(rng, story, RATE))
        for steps, n in MIX.items()
        for story, problem in stories(n, seed=seed, steps=steps)
    ]


def main(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(HERE / "teacher", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(HERE / "teacher")
    train(model, tokenizer, slipping_traces, SCHEDULE, lambda step, loss: None)
    save(model.to(torch.bfloat16), tokenizer, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
