"""What drives the ratio of RL to distillation: `python -m bench.drivers [ROW ...]`.

Every row is a quick run, with three seeds, of the experiment `self-distillation` with something
changed; its result goes to docs/results/drivers/ROW.json, and from there into docs/claims.md.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from app.cli.output import scaled
from bench.support.markdown import DOCS, interval, ratio, table
from opd.experiments.definition import Experiment

FOLDER = DOCS / "results" / "drivers"
SEEDS = 3
ARMS = ("rl", "opd", "opd-32")  # of the rows: those of few answers per step came after them


@dataclass(frozen=True)
class StudyRow:
    changed: str
    settings: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        changes = [part for setting in self.settings for part in ("--set", setting)]
        return [
            "opd",
            "experiment",
            "self-distillation",
            "--quick",
            "--seeds",
            str(SEEDS),
            *changes,
        ]


STUDY = {
    "shipped": StudyRow("nothing (as shipped)"),
    "three-steps": StudyRow("three steps per problem", ("prompts.problem_steps=3",)),
    "six-steps": StudyRow(
        "six steps per problem", ("prompts.problem_steps=6", "sampling.max_new_tokens=96")
    ),
    "farther-target": StudyRow(
        "target 0.1 below RL's final score, not 0.02", ("target.margin=0.1",)
    ),
    "few-habits": StudyRow(
        "start with few bad habits, three steps",
        ("student=bundled/student", "prompts.problem_steps=3"),
    ),
    "small": StudyRow(
        "64k parameters, three steps", ("student=bundled/small", "prompts.problem_steps=3")
    ),
    "falling-rate": StudyRow(
        "distillation's learning rate decays to 0",
        tuple(f"arms.{arm}.config.optimizer.decay=linear" for arm in ("opd", "opd-32")),
    ),
}
HEADS = [
    *("change", "start", "RL final", "RL steps", "OPD steps"),
    *("RL ÷ OPD, steps", "FLOPs", "RL ÷ OPD-32, steps", "FLOPs"),
]


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or STUDY:
        with tempfile.TemporaryDirectory() as data:
            command = [*STUDY[name].command[1:], "--json", "--data-dir", data]
            program = [sys.executable, "-m", "app.cli.main"]
            done = subprocess.run(
                [*program, *command], stdout=subprocess.PIPE, text=True, check=True
            )
        result = json.loads(done.stdout.splitlines()[-1])
        text = json.dumps(result, ensure_ascii=False, separators=(",", ":"))
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def studied(experiment: Experiment) -> Experiment:
    """The experiment with only the arms that the rows have; arms do not depend on each other."""
    arms = {name: experiment.arms[name] for name in ARMS}
    pairs = [pair for pair in experiment.pairs if pair.under in ARMS]
    return experiment.model_copy(update={"arms": arms, "pairs": pairs})


def section() -> str:
    """The study's part of docs/claims.md: its notes with the table in their place."""
    notes = (DOCS / "results" / "drivers.md").read_text(encoding="utf-8").strip()
    return notes.replace("{table}", "\n".join(table(HEADS, rows()))) + "\n"


def rows() -> list[list[str]]:
    return [
        cells(row, json.loads(path.read_text(encoding="utf-8")))
        for name, row in STUDY.items()
        if (path := FOLDER / f"{name}.json").is_file()
    ]


def cells(row: StudyRow, result: dict[str, Any]) -> list[str]:
    start, *arms = result["table"]
    by_name = {arm["arm"]: arm for arm in arms}
    rl = by_name["rl"]
    return [
        row.changed,
        f"{start['score']:.2f}",
        interval(rl["score"], rl["low"], rl["high"]),
        *(scaled(by_name[name]["steps_to_target"]) for name in ("rl", "opd")),
        *(
            ratio(**pair["ratios"][axis]) if pair["reached"] else missed(by_name[pair["under"]])
            for pair in result["comparisons"]
            if pair["under"] in ARMS
            for axis in ("steps", "flops")
        ),
    ]


def missed(arm: dict[str, Any]) -> str:
    return f"reached by {arm['reached']} of {arm['n']}"


if __name__ == "__main__":
    main()
