"""Reads what the checks of a run look at: a fair share of its stored tokens, and its figures."""

from typing import Any

import numpy as np
from sqlalchemy import Connection, RowMapping, select

from opd.diagnosis.run_records import Floats, RunRecords
from storage.lookups import run_fingerprint
from storage.read.run_tokens import Share, fair_share, run_tokens
from storage.schema import evaluation, rollout, step
from storage.vocabulary import read_texts

MAX_TOKENS = 100_000
KINDS = ("train", "import", "eval")  # the first of which there is any
COLUMNS = (
    *("completion_ids", "sampler_logprobs", "student_logprobs", "teacher_logprobs"),
    *("reverse_kl", "student_entropy", "teacher_entropy", "mask"),
    *("teacher_topk_ids", "teacher_topk_logprobs", "teacher_topk_other"),
)
PASS = "pass@1"


def read_run_records(connection: Connection, row: RowMapping) -> RunRecords:
    """Of a run, given its row: about MAX_TOKENS of its tokens at most."""
    run_id = row["id"]
    share = _share(connection, run_id)
    tokens = run_tokens(connection, COLUMNS, share.ids)
    used = [
        tokens.columns[name].ravel()
        for name in ("completion_ids", "teacher_topk_ids")
        if name in tokens.columns
    ]
    ids = np.unique(np.concatenate([np.zeros(0, np.int64), *used]).astype(np.int64))
    return RunRecords(
        row["config"],
        tokens,
        read_texts(connection, run_fingerprint(row), ids.tolist()),
        _steps(connection, run_id),
        _scores(connection, run_id),
        share.left_out,
    )


def _share(connection: Connection, run_id: str) -> Share:
    """A share of the rollouts of the first of KINDS."""
    c = rollout.c
    present = connection.scalars(select(c.kind).where(c.run_id == run_id).distinct()).all()
    kind = next((k for k in KINDS if k in present), "")
    return fair_share(connection, [c.run_id == run_id, c.kind == kind], MAX_TOKENS)


def _steps(connection: Connection, run_id: str) -> dict[str, Floats]:
    rows = connection.scalars(
        select(step.c.metrics).where(step.c.run_id == run_id).order_by(step.c.step)
    ).all()
    names = {name for row in rows for name in row}
    return {n: np.array([_number(row.get(n)) for row in rows], np.float64) for n in names}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _scores(connection: Connection, run_id: str) -> list[tuple[float, float]]:
    c = evaluation.c
    rows = connection.execute(
        select(c.suite, c.value, c.standard_error)
        .where(c.run_id == run_id, c.metric == PASS, c.value.is_not(None))
        .order_by(c.step, c.number)
    ).all()
    return [(row.value, row.standard_error or 0.0) for row in rows if row.suite == rows[0].suite]
