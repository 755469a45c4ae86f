"""The table of runs with columns of the user's choice, sorted by any, in groups of equal values."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Engine

from opd.errors import UserError
from storage.engine import read
from storage.lookups import page_limit, page_offset, shown
from storage.read.runs import conditions, count, listed, run_items
from storage.run_table.columns import Column, Names, RunValues, resolve, value
from storage.schema import run

SUMMARISED = ("kl", "score")  # of a group, where no columns are asked for
TIME = "time"


@dataclass(frozen=True)
class TableQuery:
    """`sort` empty: newest first. `group`: runs whose values of that column are equal."""

    search: str = ""
    status: str = ""
    tag: str = ""
    started_by: str = ""
    host: str = ""
    limit: int = 100
    offset: int = 0
    columns: Sequence[str] = ()
    sort: str = ""
    order: Literal["asc", "desc"] = "asc"
    group: str = ""


@dataclass(frozen=True)
class _Chosen:
    columns: Sequence[Column]
    sort: Column | None
    group: Column | None

    @property
    def all(self) -> list[Column]:
        return [*self.columns, *(c for c in (self.sort, self.group) if c)]


def read_table(engine: Engine, query: TableQuery) -> dict[str, Any]:
    """A page of runs: {"items", "total", "columns": what each asked for is, "groups"}.

    Each item has `columns`: its values by the column's id, where any are asked for. Runs without a
    value come last in either order, equal ones newest first. With `group`, runs stand by their
    group's value and have `group`: its index in `groups`, which lists those of the page, each with
    its value, its number of runs on all pages, and `columns`: {"n", "mean", "deviation", "min",
    "max", "best"} of what is a number. Raises UserError for an unknown column.
    """
    names = ("search", "status", "tag", "started_by", "host")
    where = conditions(engine, **{name: getattr(query, name) for name in names})
    limit, offset = page_limit(query.limit), page_offset(query.offset)
    with read(engine) as connection:
        chosen = _chosen(connection, query)
        if chosen.sort is None and chosen.group is None:
            runs = _values(connection, where, chosen, (limit, offset))
            total, groups = count(connection, where), None
        else:
            runs = _ordered(_values(connection, where, chosen, None), chosen, query.order)
            groups = None if chosen.group is None else _groups(runs, chosen)
            total, runs = len(runs), runs[offset : offset + limit]
    items = [_item(one, chosen) for one in runs]
    answer = {"items": items, "total": total, "columns": [asdict(c) for c in chosen.columns]}
    return answer if groups is None else answer | _with_groups(items, runs, chosen, groups)


def _item(one: RunValues, chosen: _Chosen) -> dict[str, Any]:
    values = {column.id: value(column, one) for column in chosen.columns}
    return {**one.item, "columns": values} if values else dict(one.item)


def read_columns(engine: Engine) -> dict[str, Any]:
    """All columns that a table of the stored runs can have, {"items", "total"}; each with
    `different`: whether it is a setting that is not the same in all runs."""
    with read(engine) as connection:
        names = _names(connection)
    items = [{**asdict(c), "different": c.id in names.different} for c in names.columns()]
    return {"items": items, "total": len(items)}


def _names(connection: Connection) -> Names:
    rows = connection.execute(listed(run.c.figures, run.c.config).where(*shown())).mappings()
    return Names.of(RunValues({}, row["figures"], row["config"]) for row in rows)


def _chosen(connection: Connection, query: TableQuery) -> _Chosen:
    def one(name: str, where: str) -> Column | None:
        return resolve([name], lambda: _names(connection), where)[0] if name else None

    group = one(query.group, "group")
    if group is not None and group.kind == "metric":
        raise UserError(
            f"{group.id} is a metric; group by a setting or a fact of the run", where="group"
        )
    columns = resolve(query.columns, lambda: _names(connection), "columns")
    return _Chosen(columns, one(query.sort, "sort"), group)


def _values(
    connection: Connection,
    where: Sequence[ColumnElement[bool]],
    chosen: _Chosen,
    page: tuple[int, int] | None,
) -> list[RunValues]:
    """The runs, newest first, with what the columns read of them."""
    kinds = {column.kind for column in chosen.all}
    more = [
        column
        for column, kind in ((run.c.figures, "metric"), (run.c.config, "setting"))
        if kind in kinds
    ]
    query = listed(*more).where(*where)
    if page is not None:
        query = query.limit(page[0]).offset(page[1])
    rows = connection.execute(query).mappings().all()
    return [
        RunValues(item, row.get("figures", {}), row.get("config", {}))
        for item, row in zip(run_items(connection, rows), rows, strict=True)
    ]


def _ordered(runs: list[RunValues], chosen: _Chosen, order: str) -> list[RunValues]:
    if chosen.sort is not None:
        runs = _by(runs, chosen.sort, reverse=order == "desc")
    return runs if chosen.group is None else _by(runs, chosen.group, reverse=False)


def _by(runs: Sequence[RunValues], column: Column, *, reverse: bool) -> list[RunValues]:
    keyed = [(value(column, one), one) for one in runs]
    there = [(_key(cell), one) for cell, one in keyed if cell is not None]
    there.sort(key=lambda pair: pair[0], reverse=reverse)
    return [one for _, one in there] + [one for cell, one in keyed if cell is None]


def _key(cell: Any) -> tuple[int, Any, str]:
    """Numbers before texts before lists and mappings; texts whatever their case."""
    if isinstance(cell, bool):
        return 0, int(cell), "bool"
    if isinstance(cell, int | float):
        return 0, cell, ""
    if isinstance(cell, str):
        return 1, cell.casefold(), cell
    return 2, json.dumps(cell, sort_keys=True, ensure_ascii=False), ""


def _identity(column: Column, one: RunValues) -> tuple[int, Any, str] | None:
    cell = value(column, one)
    return None if cell is None else _key(cell)


def _groups(runs: Sequence[RunValues], chosen: _Chosen) -> dict[Any, list[RunValues]]:
    assert chosen.group is not None
    groups: dict[Any, list[RunValues]] = {}
    for one in runs:
        groups.setdefault(_identity(chosen.group, one), []).append(one)
    return groups


def _with_groups(
    items: list[dict[str, Any]],
    runs: Sequence[RunValues],
    chosen: _Chosen,
    groups: dict[Any, list[RunValues]],
) -> dict[str, Any]:
    """The groups of the page; `offset`: how many runs of all stand before each."""
    assert chosen.group is not None
    summarised = chosen.columns or resolve(SUMMARISED, Names.none, "columns")
    places: dict[Any, int] = {}
    for item, one in zip(items, runs, strict=True):
        item["group"] = places.setdefault(_identity(chosen.group, one), len(places))
    first, offsets = 0, {}
    for key, members in groups.items():
        offsets[key], first = first, first + len(members)
    shown_groups = [
        {
            "value": value(chosen.group, groups[key][0]),
            "runs": len(groups[key]),
            "offset": offsets[key],
            "columns": {c.id: s for c in summarised if (s := _summary(c, groups[key])) is not None},
        }
        for key in places
    ]
    return {"group": asdict(chosen.group), "groups": shown_groups, "groups_total": len(groups)}


def _summary(column: Column, runs: Sequence[RunValues]) -> dict[str, Any] | None:
    """Of the runs that have a number; `deviation` is the sample's, of two at least."""
    numbers = [
        number
        for one in runs
        if isinstance(number := value(column, one), int | float) and not isinstance(number, bool)
    ]
    if not numbers or column.unit == TIME:
        return None
    low, high = min(numbers), max(numbers)
    return {
        "n": len(numbers),
        "mean": math.fsum(numbers) / len(numbers),
        "deviation": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "min": low,
        "max": high,
        "best": {"high": high, "low": low}.get(column.goal),
    }
