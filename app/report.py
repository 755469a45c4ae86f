"""A run, or one rollout of it, as a single HTML file that opens from disk without a network.

It holds the token view's own scripts, bound by an import map of data: addresses; only what asks
the server is exchanged (INSTEAD). Everything a model or a user wrote stands in the file packed
(gzip, base64), so that no text of theirs is ever read as markup. Free of torch and gradio.
"""

import base64
import gzip
import html
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Engine

from app.payload import encode
from app.scripts import STATIC, renamed, sources, style_sheets
from opd.config.run import parse, to_yaml
from opd.errors import ConfigError, ErrorKind, UserError
from storage.diagnosis.diagnose import diagnose
from storage.insights.hot_tokens import read_hot_tokens
from storage.marks.edit import MAX_MARKS
from storage.marks.listing import read_marks
from storage.read.reports import read_alternatives
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_evaluations, read_run, read_steps
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens

ENTRY = "report/report.js"
INSTEAD = {  # module → what stands for it in a report
    "lib/api.js": "report/api.js",
    "rollout/panels/what_if.js": "report/absent.js",
    "rollout/panels/over_time.js": "report/absent.js",
    "rollout/panels/loss_lab.js": "report/absent.js",
}
JSON = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
MAX_ROLLOUTS = 200
ALL_COLUMNS = (*MAIN_COLUMNS, *EXTRA_COLUMNS)
HOT_TOKENS = 200
_RUN_FIELDS = (
    *("id", "name", "status", "source", "recipe", "student", "teacher", "objective", "trained"),
    *("steps", "step", "kl", "score", "score_start", "score_suite", "seed", "device", "tokens"),
    *("flops", "seconds", "created_at", "started_at", "finished_at", "versions", "notes", "tags"),
    "end_reason",
)


@dataclass(frozen=True)
class Report:
    html: str
    rollouts: int


def report(
    engine: Engine,
    name: str,
    *,
    rollouts: int = 20,
    version: str = "",
    seen: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Report:
    """The report of a run with its `rollouts` worst and its marked ones, or of one rollout. `seen`
    may correct what is stored of the run.

    Raises UserError: "not found", or DamagedRecord for a rollout that was asked for by name.
    """
    if not 1 <= rollouts <= MAX_ROLLOUTS:
        raise UserError(f"must be 1 to {MAX_ROLLOUTS} (got {rollouts})", where="--rollouts")
    one = name.startswith("roll-")
    run = seen(read_run(engine, read_rollout(engine, name)["run_id"] if one else name))
    diagnosis = None if one else diagnose(engine, run["id"])
    marks = _marks(engine, run["id"])
    named = [*_named(diagnosis), *dict.fromkeys(mark["rollout_id"] for mark in marks)]
    items, blocks = _one(engine, name) if one else _worst(engine, name, rollouts, named)
    there = {item["id"] for item in items}
    data = {
        "opens": name if one else "",
        "made": {"at": time.time(), "version": version},
        "run": {field: run[field] for field in _RUN_FIELDS},
        "temperature": run["config"]["sampling"]["temperature"],
        "yaml": _yaml(run["config"]),
        "total": read_rollouts(engine, run["id"], limit=1)["total"],
        "steps": read_steps(engine, run["id"])["columns"],
        "evaluations": read_evaluations(engine, run["id"])["items"],
        "diagnosis": diagnosis,
        "hot": _hot(engine, run["id"], there),
        "marks": [mark for mark in marks if mark["rollout_id"] in there],
        "rollouts": items,
    }
    packed = {"report": _packed(orjson.dumps(data, option=JSON)), **blocks}
    return Report(_page(f"{run['name'] or run['id']} · OPD Studio report", packed), len(items))


def modules(entry: str = ENTRY) -> dict[str, str]:
    """Every module that `entry` reaches, by path, with specifiers that the import map knows.

    A module of INSTEAD comes under its own path with the source of the other.
    """
    return {
        path: renamed(INSTEAD.get(path, path), source, "opd/{}".format)
        for path, source in sources(entry, INSTEAD).items()
    }


def _one(engine: Engine, rollout_id: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
    meta = read_rollout(engine, rollout_id)
    if meta["damaged"]:
        raise UserError(meta["damage"], where=rollout_id, kind=ErrorKind.DAMAGED_RECORD)
    return [meta], _blocks(engine, rollout_id)


def _named(diagnosis: Any) -> list[str]:
    """The rollouts that the diagnosis leads to."""
    findings = diagnosis["items"] if diagnosis else []
    return [rollout["id"] for finding in findings for rollout in finding["rollouts"]]


def _marks(engine: Engine, run_id: str) -> list[dict[str, Any]]:
    """The run's marks whose rollouts are stored, of at most MAX_ROLLOUTS rollouts."""
    items = read_marks(engine, run_id, limit=MAX_MARKS)["items"]
    marks = [mark for mark in items if mark["step"] is not None]
    kept = {*list(dict.fromkeys(mark["rollout_id"] for mark in marks))[:MAX_ROLLOUTS]}
    return [mark for mark in marks if mark["rollout_id"] in kept]


def _worst(
    engine: Engine, run_id: str, count: int, named: list[str]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The run's worst rollouts by the sum of their KL, so many, and those named besides.

    Damaged ones are left out, and branches, which are not of the run's own.
    """
    items: dict[str, dict[str, Any]] = {}
    offset = 0
    while len(items) < count:
        page = read_rollouts(engine, run_id, offset=offset, limit=count)["items"]
        for meta in (read_rollout(engine, item["id"]) for item in page):
            if len(items) < count and not meta["damaged"] and meta["kind"] != "branch":
                items[meta["id"]] = meta
        offset += count
        if len(page) < count:
            break
    for rollout_id in named:
        if rollout_id not in items and not (meta := read_rollout(engine, rollout_id))["damaged"]:
            items[rollout_id] = meta
    blocks: dict[str, str] = {}
    for rollout_id in items:
        blocks |= _blocks(engine, rollout_id)
    ordered = sorted(items.values(), key=lambda meta: -(meta["kl_sum"] or 0.0))
    return ordered, blocks


def _blocks(engine: Engine, rollout_id: str) -> dict[str, str]:
    blocks = {f"{rollout_id}/tokens": read_tokens(engine, rollout_id, ALL_COLUMNS)}
    if (alternatives := read_alternatives(engine, rollout_id)) is not None:
        blocks[f"{rollout_id}/topk"] = alternatives
    return {name: _packed(encode(view, whole=True)) for name, view in blocks.items()}


def _hot(engine: Engine, run_id: str, there: set[str]) -> list[dict[str, Any]]:
    """The run's worst tokens, as far as their rollouts are in the report."""
    items = read_hot_tokens(engine, run_id, limit=10_000)["items"]
    return [item for item in items if item["rollout_id"] in there][:HOT_TOKENS]


def _yaml(config: dict[str, Any]) -> str:
    try:
        return to_yaml(parse(config))
    except ConfigError:  # of another version
        return ""


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _page(title: str, blocks: dict[str, str]) -> str:
    nonce = secrets.token_urlsafe(16)
    imports = {
        f"opd/{name}": f"data:text/javascript;base64,{base64.b64encode(source.encode()).decode()}"
        for name, source in modules().items()
    }
    styles = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in style_sheets())
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}' data:; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en" class="report"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{styles}</style>",
            f'<script type="importmap" nonce="{nonce}">{_json({"imports": imports})}</script>',
            *(
                f'<script type="text/plain" data-block="{n}">{b}</script>'
                for n, b in blocks.items()
            ),
            "</head><body>",
            "<noscript>This report is drawn by scripts in it: allow them.</noscript>",
            f'<script type="module" nonce="{nonce}">import "opd/{ENTRY}";</script>',
            "</body></html>\n",
        ]
    )


def _json(data: Any) -> str:
    return orjson.dumps(data).decode().replace("<", "\\u003c")
