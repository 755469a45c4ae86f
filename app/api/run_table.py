"""REST routes of the table of runs: its pages, its columns, and itself as CSV."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy import Engine
from starlette.responses import Response, StreamingResponse

from app.api.http.inputs import MAX_OFFSET, Database, Text
from app.api.http.replies import Json
from app.worker.devices.waiting import why_queued
from opd.interchange.spreadsheet import csv_line
from opd.types import RunStatus
from storage.data_dir import DataDir
from storage.read.disk import disk_use
from storage.read.runs import read_runs
from storage.run_table.table import TableQuery, read_columns, read_table

router = APIRouter(prefix="/api/v1", tags=["runs"])
CSV_COLUMNS = [
    "id",
    "name",
    "status",
    "recipe",
    "student",
    "teacher",
    "objective",
    "seed",
    "steps",
    "step",
    "kl",
    "score",
    "score_start",
    "tokens",
    "flops",
    "seconds",
    "created_at",
    "started_at",
    "finished_at",
    "tags",
    "notes",
    "parent",
    "error_kind",
    "error_text",
    "started_by",
    "host",
]
PAGE = 1000
ColumnName = Annotated[Text, Field(max_length=420)]


class RunFilter(BaseModel):
    """Which runs, and how their table stands. `started_by`: by whom, `host`: on which machine they
    run or ran last. `columns`: names separated by commas, from
    GET /runs/columns; a name may be a metric (`reverse_kl`, `reverse_kl:best`, `eval/SUITE/pass@1`,
    with `:min` and `:max`), a setting by its path (`optimizer.learning_rate`) or a fact of the run
    (`kl`, `tokens`). `sort`: any of these, or empty for the newest first; runs without a value come
    last. `group`: a setting or fact by whose values the runs stand together."""

    search: Annotated[Text, Field(max_length=500)] = ""
    status: Literal["", RunStatus] = ""
    tag: Annotated[Text, Field(max_length=500)] = ""
    started_by: Annotated[Text, Field(max_length=200)] = ""
    host: Annotated[Text, Field(max_length=300)] = ""
    columns: Annotated[Text, Field(max_length=10_000)] = ""
    sort: ColumnName = ""
    order: Literal["asc", "desc"] = "asc"
    group: ColumnName = ""

    def query(self, limit: int, offset: int) -> TableQuery:
        names = tuple(name.strip() for name in self.columns.split(",") if name.strip())
        fields = self.model_dump() | {"columns": names, "limit": limit, "offset": offset}
        return TableQuery(**fields)

    @property
    def plain(self) -> bool:
        """Whether it asks for no columns and no order of its own."""
        return not (self.columns or self.sort or self.group)


class RunPage(RunFilter):
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0


@router.get("/runs")
def list_runs(request: Request, engine: Database, page: Annotated[RunPage, Query()]) -> Response:
    """A page of runs, newest first or by `sort`, each with its disk use, and `waits_because`: what
    keeps a queued one from starting, in words.

    Where `columns`, `sort` or `group` is given: each run has `columns`, its values by name, and
    `columns` beside the items says what each is. With `group`, each has `group`, its index in
    `groups`: value, number of runs on all pages, and mean, deviation, least, most and best of what
    is a number.
    """
    if page.plain:
        filters = page.model_dump(include={"search", "status", "tag", "started_by", "host"})
        content = read_runs(engine, **filters, limit=page.limit, offset=page.offset)
    else:
        content = read_table(engine, page.query(page.limit, page.offset))
    data_dir = request.app.state.data_dir
    waits = why_queued(engine, content["items"], request.app.state.trouble())
    content["items"] = [
        with_disk(item | {"waits_because": waits.get(item["id"])}, data_dir)
        for item in content["items"]
    ]
    return Json(content)


@router.get("/runs/columns")
def list_columns(engine: Database) -> Response:
    """All columns that the table of the stored runs can have: facts, metrics and settings.

    `different`: a setting that is not the same in all runs; `goal`: which value is the best."""
    return Json(read_columns(engine))


@router.get("/runs.csv")
def runs_csv(engine: Database, table: Annotated[RunFilter, Query()]) -> Response:
    """All runs as CSV; with `columns`, id and name and those."""
    if not table.plain:
        read_table(engine, table.query(1, 0))  # refuses unknown columns before the reply begins
    headers = {"content-disposition": 'attachment; filename="runs.csv"'}
    lines = _csv_lines(engine, table)
    return StreamingResponse(lines, media_type="text/csv", headers=headers)


def with_disk(item: dict[str, Any], data_dir: DataDir) -> dict[str, Any]:
    """The run with the bytes of its folder: of checkpoints, of other files, and of all."""
    return {**item, "disk": disk_use(data_dir.run(item["id"]))}


def _csv_lines(engine: Engine, table: RunFilter) -> Iterator[str]:
    first = read_table(engine, table.query(PAGE, 0))
    chosen = [column["id"] for column in first["columns"] if column["id"] not in ("id", "name")]
    yield csv_line(["id", "name", *chosen] if chosen else CSV_COLUMNS)
    offset, items = 0, first["items"]
    while items:
        for item in items:
            values = [item["columns"][name] for name in chosen]
            whole = [item["id"], item["name"], *values]
            yield csv_line(whole if chosen else (item.get(column) for column in CSV_COLUMNS))
        offset += len(items)
        items = read_table(engine, table.query(PAGE, offset))["items"]
