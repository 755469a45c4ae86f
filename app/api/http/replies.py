"""What the REST routes answer: JSON by orjson, and errors as small objects, never a trace."""

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from opd.errors import ChangedInputsError, ConfigError, StaleEditError, UserError

MAX_PROBLEMS = 50
MAX_MESSAGE = 1_000


class ChangedField(BaseModel):
    field: str
    text: str


class EditedRun(BaseModel):
    """What somebody else's edit has made of a run."""

    version: int
    name: str
    notes: str
    tags: list[str]


class EditedMark(BaseModel):
    """What somebody else's edit has made of a mark."""

    id: str
    run_id: str
    rollout_id: str
    position: int | None
    note: str
    version: int
    created_at: float
    changed_at: float


class Error(BaseModel):
    """An error: message, field or file, and kind; of a refused resume, what has changed; of a
    refused edit, what the run or the mark is now."""

    error: str
    where: str = ""
    kind: str = ""
    changes: list[ChangedField] = []
    current: EditedRun | EditedMark | None = None


class Problem(BaseModel):
    field: str
    message: str


class Problems(BaseModel):
    """Invalid input, one entry per field."""

    problems: list[Problem]


class Json(Response):
    """A JSON response; numbers that JSON lacks (NaN, infinities) become null."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200) -> None:
        super().__init__(content, status_code, headers={"cache-control": "no-store"})

    def render(self, content: Any) -> bytes:
        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
        return orjson.dumps(content, option=options)


def problems_reply(problems: list[dict[str, str]]) -> Json:
    return Json({"problems": shown_problems(problems)}, 422)


def shown_problems(problems: list[dict[str, str]]) -> list[dict[str, str]]:
    """The first problems, cut to a readable length, as text that JSON can carry."""
    shown = [
        {"field": _clean(p["field"]), "message": _clean(p["message"])}
        for p in problems[:MAX_PROBLEMS]
    ]
    if hidden := len(problems) - len(shown):
        shown.append({"field": "", "message": f"{hidden} more problems are not listed"})
    return shown


def add_error_handlers(app: FastAPI) -> None:
    """Every error that input can cause becomes JSON with a 4xx status."""
    app.add_exception_handler(ConfigError, _config_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _config_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ConfigError)
    return problems_reply(error.problems)


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    content: dict[str, Any] = {
        "error": _clean(error.message),
        "where": _clean(error.where),
        "kind": error.kind,
    }
    if isinstance(error, ChangedInputsError):
        content["changes"] = [
            {name: _clean(text) for name, text in change.items()} for change in error.changes
        ]
    if isinstance(error, StaleEditError):
        content["current"] = error.current
    return Json(content, error.kind.status)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problems_reply(
        [
            {
                "field": ".".join(str(part) for part in e["loc"][1:]),
                "message": _message(e),
            }
            for e in error.errors()[:MAX_PROBLEMS]
        ]
    )


def _message(error: dict[str, Any]) -> str:
    """Of an address whose id has another form than ours, that there is no such thing."""
    if error["type"] == "string_pattern_mismatch" and error["loc"][0] == "path":
        prefix = str(error["ctx"]["pattern"]).strip("^(").partition("-")[0]
        kind = {"roll": "rollout", "ask": "request", "exp": "experiment"}.get(prefix, prefix)
        return f"no such {kind}: ids begin with {prefix}-"
    return str(error["msg"]).removeprefix("Value error, ")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reply = Json({"error": _clean(str(error.detail))}, error.status_code)
    reply.headers.update(error.headers or {})
    return reply


def _clean(text: str) -> str:
    return text[:MAX_MESSAGE].encode("utf-8", "replace").decode()
