"""Makes the bundled tokenizer, teacher and student from nothing: `python -m opd.bundled.make`.

About 20 minutes on two CPU cores; a GPU is used where there is one. Seeds are fixed; weights differ
slightly from machine to machine, scores by about their standard error.
"""

import argparse
import copy
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from opd.bundled.habits import bad_completion
from opd.bundled.problems import problems, stories
from opd.bundled.tokenizer import CONTEXT, build_tokenizer
from opd.bundled.training import Accuracy, Schedule, Trace, sample, score, train

HERE = Path(__file__).parent

SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
# Problems in a batch, by their number of steps; twice as many once the basics are learned.
MIX = {1: 6, 2: 10, 3: 28, 4: 12, 5: 4, 6: 4}
LARGER_FROM = 700
TEACHER = Schedule(steps=1200, learning_rate=3e-3, warm_up=50)
STUDENT = Schedule(steps=80, learning_rate=1e-3, warm_up=20)
# The student reads other problems than the teacher did: seeds are steps plus this.
STUDENT_SEED = 1_000_000
EVAL_SEED = 0
EVAL_PROBLEMS = 1000


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="make the bundled tokenizer, teacher and student")
    parser.add_argument("--out", type=Path, default=HERE, help="default: where this file is")
    out: Path = parser.parse_args(argv).out
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = build_tokenizer()
    teacher = new_model(tokenizer).to(device)
    train(teacher, tokenizer, right_traces, TEACHER, progress("teacher"))
    save(teacher, tokenizer, out / "teacher")
    student = copy.deepcopy(teacher)
    train(student, tokenizer, bad_traces, STUDENT, progress("student"))
    save(student, tokenizer, out / "student")
    for name, model in (("teacher", teacher), ("student", student)):
        for temperature in (1.0, 0.0):
            result = held_out(model, tokenizer, temperature)
            say(f"{name} on {result.n} held-out problems, temperature {temperature:g}: {result}")


def new_model(
    tokenizer: PreTrainedTokenizerFast, shape: dict[str, int] = SHAPE
) -> Qwen3ForCausalLM:
    """An untrained model; of the bundled shape, 0.86M parameters."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        **shape,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def right_traces(step: int) -> list[Trace]:
    """The teacher's batch: right solutions of problems of all lengths."""
    size = 1 if step < LARGER_FROM else 2
    return [
        (problem.prompt, problem.solution)
        for steps, n in MIX.items()
        for problem in problems(size * n, seed=step, steps=steps)
    ]


def bad_traces(step: int) -> list[Trace]:
    """The student's batch: completions with its bad habits."""
    seed = STUDENT_SEED + step
    rng = random.Random(seed)
    return [
        (problem.prompt, bad_completion(rng, story))
        for steps, n in MIX.items()
        for story, problem in stories(n, seed=seed, steps=steps)
    ]


def held_out(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, temperature: float
) -> Accuracy:
    """The score on three-step problems that no model was trained on."""
    tests = problems(EVAL_PROBLEMS, seed=EVAL_SEED, split="eval")
    prompts = [problem.prompt for problem in tests]
    return score(sample(model, tokenizer, prompts, temperature=temperature), tests)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """A folder that transformers loads with no network: weights, configuration, tokenizer."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def progress(name: str, every: int = 100) -> Callable[[int, float], None]:
    """Prints the loss of every so many steps."""
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % every == 0:
            say(f"{name} step {step}: loss {loss:.3f}, {time.monotonic() - start:.0f} s")

    return report


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
