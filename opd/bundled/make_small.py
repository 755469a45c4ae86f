"""Makes the small bundled student from nothing: `python -m opd.bundled.make_small`.

A model of 64 thousand parameters, a thirteenth of the teacher, that learns the arithmetic on right
traces and then the bad habits of the bundled student. It starts the experiment `small-student`.
About five minutes on one CPU core. Seeds are fixed; weights differ slightly from machine to
machine.
"""

import argparse
from pathlib import Path

from opd.bundled.make import (
    HERE,
    STUDENT,
    bad_traces,
    held_out,
    new_model,
    progress,
    right_traces,
    save,
    say,
)
from opd.bundled.tokenizer import build_tokenizer
from opd.bundled.training import Schedule, train

ARITHMETIC = Schedule(steps=1500, learning_rate=5e-3, warm_up=50)
SHAPE = {
    "hidden_size": 48,
    "intermediate_size": 144,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 48,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="make the small bundled student")
    parser.add_argument("--out", type=Path, default=HERE, help="default: where this file is")
    out: Path = parser.parse_args(argv).out
    tokenizer = build_tokenizer()
    model = new_model(tokenizer, SHAPE)
    report = progress("small")
    train(model, tokenizer, right_traces, ARITHMETIC, report)
    train(model, tokenizer, bad_traces, STUDENT, report)
    save(model, tokenizer, out / "small")
    for temperature in (1.0, 0.0):
        result = held_out(model, tokenizer, temperature)
        say(f"small on {result.n} held-out problems, temperature {temperature:g}: {result}")


if __name__ == "__main__":
    main()
