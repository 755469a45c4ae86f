"""What a run depends on, as its first attempt found it: fingerprints, and the moment it began."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Engine, update

from storage.engine import begin, read
from storage.lookups import run_row
from storage.queue.jobs import hold
from storage.schema import run

Fingerprints = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RunInputs:
    """`moment` is in ISO format, of local time: chat templates render as of it.

    fingerprints: by field of the configuration, None of a run that began before there were any.
    accept: whether the next attempt goes on in spite of changes. accepted: the changes that earlier
    attempts went on with, each {"attempt", "step", "changes"}.
    """

    moment: str | None = None
    fingerprints: Fingerprints | None = None
    accept: bool = False
    accepted: list[dict[str, Any]] = field(default_factory=list)


def read_inputs(engine: Engine, run_id: str) -> RunInputs:
    """Raises UserError of kind "not found"."""
    with read(engine) as connection:
        return stored_inputs(run_row(connection, run_id)["inputs"])


def stored_inputs(value: dict[str, Any] | None) -> RunInputs:
    """The column's value; of an older version, it is null."""
    return RunInputs(**(value or {}))


def write_inputs(engine: Engine, run_id: str, attempt: int, inputs: RunInputs) -> None:
    """Stores what the attempt started with. Raises LeaseLost."""
    with begin(engine) as connection:
        hold(connection, run_id, attempt)
        connection.execute(update(run).where(run.c.id == run_id).values(inputs=asdict(inputs)))
