"""Requests that are answered outside the server: by the model process, and those for a file
(FILE_KINDS) by the file process, so that neither waits for the other.

A running request belongs to one process; when that has died, another one marks it as failed. The
table is called `question`.
"""

import secrets
import string
from collections.abc import Callable
from typing import Any, Literal

from sqlalchemy import ColumnElement, Engine, RowMapping, delete, func, insert, select, update

from opd.errors import ErrorKind, UserError
from storage import clock
from storage.databases.turns import take_turn
from storage.engine import DatabaseTime, begin, read
from storage.queue.jobs import Owner, owner_of, owner_values
from storage.schema import question
from storage.text import clean

State = Literal["queued", "running", "done", "failed"]
FILE_KINDS = ("export", "report", "save")
MAX_WAITING = 20
KEPT_SECONDS = 86_400.0
OTHERS_AFTER = 10.0  # seconds in which the host that was asked does not answer
SHOWN = ("id", "kind", "state", "phase", "answer", "error_kind", "error_text", "hint")
TIMES = ("created_at", "started_at", "finished_at")


def enqueue(engine: Engine, kind: str, payload: dict[str, Any], boot: str | None = None) -> str:
    """Queues a request and returns its id; answers older than a day are removed.

    `boot` is that of the host which is to answer, if it does so soon.

    Raises UserError of kind "busy" where too many are queued.
    """
    letters = string.ascii_lowercase + string.digits
    name = "ask-" + "".join(secrets.choice(letters) for _ in range(12))
    with begin(engine) as connection:
        take_turn(connection, "requests")
        now = clock.now(connection)
        ended = question.c.state.in_(("done", "failed"))
        connection.execute(
            delete(question).where(ended, question.c.created_at < now - KEPT_SECONDS)
        )
        waiting = connection.scalar(
            select(func.count()).select_from(question).where(*_of(kind in FILE_KINDS, "queued"))
        )
        if (waiting or 0) >= MAX_WAITING:
            raise UserError(
                f"too many requests are queued ({waiting} of {MAX_WAITING}); try again in a moment",
                where="question",
                kind=ErrorKind.BUSY,
            )
        connection.execute(
            insert(question).values(
                id=name,
                kind=kind,
                payload=payload,
                state="queued",
                created_at=now,
                owner_boot=boot,
                **dict.fromkeys(("phase", "error_kind", "error_text", "hint"), ""),
            )
        )
    return name


def read_request(engine: Engine, name: str) -> dict[str, Any]:
    """The request with its answer, without payload and owner. Raises UserError "not found"."""
    row = _row(engine, name)
    return {key: row[key] for key in (*SHOWN, *TIMES)}


def read_whole_request(engine: Engine, name: str) -> dict[str, Any]:
    """A request with its payload: kind, payload, state, answer. Raises "not found"."""
    row = _row(engine, name)
    return {key: row[key] for key in ("kind", "payload", "state", "answer")}


def read_file_requests(engine: Engine) -> list[dict[str, Any]]:
    """Every request for a file, newest first, with its payload."""
    query = select(question).where(question.c.kind.in_(FILE_KINDS))
    with read(engine) as connection:
        rows = connection.execute(query.order_by(question.c.created_at.desc(), question.c.id))
        return [{key: row[key] for key in (*SHOWN, *TIMES, "payload")} for row in rows.mappings()]


def remove(engine: Engine, name: str) -> None:
    """Removes a request that has ended; another one stays."""
    with begin(engine) as connection:
        ended = question.c.state.in_(("done", "failed"))
        connection.execute(delete(question).where(question.c.id == name, ended))


def claim(engine: Engine, owner: Owner, *, files: bool = False) -> dict[str, Any] | None:
    """Gives the oldest queued request to a process: id, kind, payload. None: none is queued that is
    this host's to answer."""
    with begin(engine) as connection:
        query = select(question).where(*_of(files, "queued"), _answered_on(owner.boot))
        oldest_first = query.order_by(question.c.created_at, question.c.id)
        for row in connection.execute(oldest_first).mappings().all():
            claimed = connection.execute(
                update(question)
                .where(question.c.id == row["id"], question.c.state == "queued")
                .values(
                    state="running",
                    phase="starting",
                    started_at=clock.now(connection),
                    **owner_values(owner),
                )
            )
            if claimed.rowcount == 1:  # else another host was first (PostgreSQL)
                return {name: row[name] for name in ("id", "kind", "payload")}
    return None


def progress(
    engine: Engine, name: str, *, phase: str, answer: dict[str, Any] | None = None
) -> bool:
    """What is being done, and as much of the answer as there is. False: it is no longer running."""
    values: dict[str, Any] = {"phase": clean(phase)[:200]}
    if answer is not None:
        values["answer"] = answer
    return _change(engine, name, values)


def finish(engine: Engine, name: str, answer: dict[str, Any]) -> bool:
    return _change(engine, name, {"state": "done", "phase": "", "answer": answer}, ends=True)


def fail(
    engine: Engine, name: str, text: str, *, kind: ErrorKind = ErrorKind.ERROR, hint: str = ""
) -> bool:
    """Ends a request, queued or running, without an answer. False: it had already ended."""
    return _change(
        engine,
        name,
        {
            "state": "failed",
            "phase": "",
            "error_kind": clean(kind),
            "error_text": clean(text)[:2000],
            "hint": clean(hint),
        },
        states=("queued", "running"),
        ends=True,
    )


def waiting(engine: Engine, *, files: bool = False, boot: str | None = None) -> list[str]:
    """Ids of queued requests, oldest first; with `boot`, those that this host is to answer."""
    mine = () if boot is None else (_answered_on(boot),)
    with read(engine) as connection:
        return list(
            connection.scalars(
                select(question.c.id)
                .where(*_of(files, "queued"), *mine)
                .order_by(question.c.created_at, question.c.id)
            )
        )


def abandoned(engine: Engine, alive: Callable[[Owner], bool], *, files: bool = False) -> list[str]:
    """Ids of running requests whose process has died."""
    with read(engine) as connection:
        rows = connection.execute(select(question).where(*_of(files, "running"))).mappings()
        return [row["id"] for row in rows if (o := owner_of(row)) is None or not alive(o)]


def _of(files: bool, state: State) -> list[ColumnElement[bool]]:
    """Requests in that state: those for a file, or all others."""
    kind = question.c.kind
    mine = kind.in_(FILE_KINDS) if files else kind.not_in(FILE_KINDS)
    return [mine, question.c.state == state]


def _answered_on(boot: str) -> ColumnElement[bool]:
    """Of a queued request: asked on that host, or left by the one that was asked."""
    left = question.c.created_at < DatabaseTime() - OTHERS_AFTER
    return question.c.owner_boot.is_(None) | (question.c.owner_boot == boot) | left


def _row(engine: Engine, name: str) -> RowMapping:
    with read(engine) as connection:
        row = connection.execute(select(question).where(question.c.id == name)).mappings().first()
    if row is None:
        raise UserError(
            "no such request; answers are kept for one day", where=name, kind=ErrorKind.NOT_FOUND
        )
    return row


def _change(
    engine: Engine,
    name: str,
    values: dict[str, Any],
    *,
    states: tuple[str, ...] = ("running",),
    ends: bool = False,
) -> bool:
    with begin(engine) as connection:
        if ends:
            values = {**values, "finished_at": clock.now(connection)}
        changed = connection.execute(
            update(question)
            .where(question.c.id == name, question.c.state.in_(states))
            .values(**values)
        )
        return changed.rowcount == 1
