"""The prompts of marked rollouts as rows of a data file, to train or to evaluate on."""

import json
import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select

from opd.errors import UserError
from storage.engine import read
from storage.lookups import run_row
from storage.schema import mark, prompt, rollout

PLAIN = re.compile(r"[\w./-]+")  # stands for itself in YAML; anything else as JSON, which is YAML
_GRADING = ("grader", "answer_pattern", "tolerance", "json_schema")


@dataclass(frozen=True)
class MarkedPrompts:
    """`rows` are read by the default columns, each prompt once.

    as_text: how many of them are the text that the student read, as imported rollouts have no
    data row; left_out: how many prompts are not among them, as an earlier version of the program
    did not record their rows; grading: the run's own settings of the grader, other than default.
    """

    run: str
    rows: list[dict[str, Any]]
    as_text: int
    left_out: int
    grading: dict[str, Any]

    def lines(self) -> list[bytes]:
        """The file. Raises UserError where there is nothing to write."""
        if not self.rows:
            remarks = "".join(f"; {remark}" for remark in self.remarks())
            raise UserError(f"has no prompts of marked rollouts to write{remarks}", where=self.run)
        return [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in self.rows]

    def remarks(self) -> list[str]:
        """What whoever trains on the file has to know."""
        remarks = []
        if self.as_text:
            remarks.append(
                f"{_counted(self.as_text)} written as the text that the student read: imported "
                "rollouts have no data row"
            )
        if self.left_out:
            remarks.append(
                f"{_counted(self.left_out)} left out: their rows were not recorded, as this is a "
                "reply of the playground or a run of an earlier version"
            )
        return remarks

    def settings(self, source: str) -> list[str]:
        """The settings of a run on the file `source` that grades as this run did."""
        graded = {f"prompts.{name}": value for name, value in self.grading.items()}
        return [
            f"{name}={value if PLAIN.fullmatch(str(value)) else json.dumps(value)}"
            for name, value in ({"prompts": source} | graded).items()
        ]


def marked_prompts(engine: Engine, run_id: str) -> MarkedPrompts:
    """Raises UserError: "not found"."""
    with read(engine) as connection:
        run = run_row(connection, run_id)
        marked = _prompts(connection, run_id)
    rows: dict[str, dict[str, Any]] = {}
    as_text = left_out = 0
    for text, answer, data_row in marked:
        if data_row is None and run["source"] != "import":
            left_out += 1
            continue
        row = dict(data_row or {})
        if "messages" not in row:
            row = {"prompt": text, **row}
        if answer is not None:
            row["answer"] = answer
        key = json.dumps(row, sort_keys=True)
        as_text += data_row is None and key not in rows
        rows.setdefault(key, row)
    prompts = run["config"].get("prompts") or {}
    grading = {name: prompts[name] for name in _GRADING if prompts.get(name)}
    return MarkedPrompts(run_id, list(rows.values()), as_text, left_out, grading)


def _prompts(connection: Connection, run_id: str) -> list[Any]:
    """Text, answer and row of every prompt with a marked rollout, by step and group."""
    marked = select(mark.c.rollout_id).where(mark.c.run_id == run_id)
    rows = connection.execute(
        select(prompt.c.id, prompt.c.text, prompt.c.answer, prompt.c.data_row)
        .join(rollout, rollout.c.prompt_id == prompt.c.id)
        .where(rollout.c.run_id == run_id, rollout.c.id.in_(marked))
        .order_by(rollout.c.step, rollout.c.kind, rollout.c.group, rollout.c.id)
    )
    return list({row.id: (row.text, row.answer, row.data_row) for row in rows}.values())


def _counted(prompts: int) -> str:
    return "1 prompt is" if prompts == 1 else f"{prompts} prompts are"
