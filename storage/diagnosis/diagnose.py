"""The diagnosis of a stored run."""

from typing import Any

from sqlalchemy import Engine

from opd.diagnosis.checks import run_checks
from storage.diagnosis.records import read_run_records
from storage.engine import read
from storage.lookups import run_row, version_of
from storage.read.cache import cached


def diagnose(engine: Engine, run_id: str) -> dict[str, Any]:
    """As opd.diagnosis.checks.run_checks says. Raises UserError of kind "not found"."""
    with read(engine) as connection:
        row = run_row(connection, run_id)
        key = ("diagnosis", run_id, version_of(connection, run_id))
        return cached(engine, key, lambda: run_checks(read_run_records(connection, row)))
