"""Rollouts of runs as one file, for `opd export` and for pages."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Engine

from opd.errors import UserError
from storage.read.export import export_rows
from storage.read.rollout_table import table_rows

Form = Literal["jsonl", "parquet", "csv"]


@dataclass(frozen=True)
class RolloutExport:
    """What is exported. table: one flat row a rollout, without token records, as CSV always is."""

    runs: Sequence[str]
    form: Form
    table: bool = False

    def __post_init__(self) -> None:
        """Raises UserError."""
        if self.table and self.form == "jsonl":
            raise UserError("a table is CSV or Parquet, not JSON lines", where="table")

    def rows(
        self, engine: Engine, on_damaged: Callable[[UserError], None]
    ) -> Iterator[dict[str, Any]]:
        """The rollouts of the runs, in turn. Raises "not found"."""
        for run in self.runs:
            if self.table or self.form == "csv":
                yield from table_rows(engine, run)
            else:
                yield from export_rows(engine, run, on_damaged)


def write_rollouts(path: Path, export: RolloutExport, rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows, some at a time; how many they were."""
    counted = _Counted(rows)
    _write(path, export, counted)
    return counted.count


class _Counted:
    """Rows that are counted as they pass."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            self.count += 1
            yield row


def _write(path: Path, export: RolloutExport, rows: Iterable[dict[str, Any]]) -> None:
    from opd.interchange.jsonl import write_line  # noqa: PLC0415 - as late as what they load
    from opd.interchange.parquet import write_parquet  # noqa: PLC0415
    from opd.interchange.spreadsheet import csv_lines, parquet_pieces  # noqa: PLC0415

    if export.form == "parquet" and not export.table:
        write_parquet(path, rows)
        return
    with path.open("wb") as file:
        if export.form == "csv":
            file.writelines(line.encode() for line in csv_lines(rows))
        elif export.form == "parquet":
            file.writelines(parquet_pieces(rows))
        else:
            for row in rows:
                write_line(file, row)
