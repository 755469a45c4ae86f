"""Notifies the URL in $OPD_WEBHOOK, if any, that an attempt at a run has ended.

Whoever records an end starts a process for it (see sender.py) and does not wait: neither a slow
nor a dead receiver delays a job, and the message survives the job's own exit.
"""

import json
import logging
import os
import subprocess
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.worker import process
from opd.errors import UserError
from storage.data_dir import DataDir
from storage.read.runs import read_run

log = logging.getLogger(__name__)
VARIABLE = "OPD_WEBHOOK"
SENDER = process.program("app.worker.webhook.sender")
MAX_URL = 2_000
_FIELDS = ("name", "status", "attempt", "step", "steps", "score", "kl", "error_kind", "error_text")
_senders: list["subprocess.Popen[bytes]"] = []  # to be reaped when the next one is started


def checked_url(text: str) -> str:
    """The address of a receiver. Raises UserError unless it is http:// or https:// with a host, and
    the proxy on the way to it, if any, can be used."""
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise UserError("is not a web address", where="webhook") from None
    plain = text.isascii() and text.isprintable() and " " not in text
    if parts.scheme not in ("http", "https") or not named or not plain or len(text) > MAX_URL:
        scheme = parts.scheme[:20] or "none"
        raise UserError(
            "must begin with http:// or https:// and name a host, in ASCII without spaces, at "
            f"most {MAX_URL} characters (got scheme {scheme}, {len(text)} characters)",
            where="webhook",
        )
    from opd.network import proxy_for  # noqa: PLC0415 - httpx, only where there is a receiver

    proxy_for(text)
    return text


def check_setting() -> None:
    """Raises UserError where $OPD_WEBHOOK holds something that no message can be sent to."""
    if text := os.environ.get(VARIABLE):
        checked_url(text)


def notify(engine: Engine, data_dir: DataDir, run_id: str) -> None:
    """Notifies the receiver, where one is set, of the run's end. Called once per end, by whoever
    recorded it; returns at once and raises nothing that could spoil a job."""
    if not os.environ.get(VARIABLE):
        return
    try:
        check_setting()
        message = json.dumps(_message(engine, data_dir, run_id)).encode()
        _start(data_dir, run_id, message)
    except (UserError, SQLAlchemyError, OSError, ValueError) as error:
        log.error("webhook: not notified of the end of the run: %s", error)


def _message(engine: Engine, data_dir: DataDir, run_id: str) -> dict[str, Any]:
    run = read_run(engine, run_id)
    message = {
        "run_id": run_id,
        **{n: run[n] for n in _FIELDS},
        "seconds": round(run["seconds"], 3),
    }
    link = _link(data_dir, run_id)
    return message | ({"link": link} if link else {})


def _link(data_dir: DataDir, run_id: str) -> str:
    """The run's page, without a token, where a server shows this data directory."""
    try:
        note = json.loads(data_dir.server_note.read_text(encoding="utf-8"))
        return f"{note['address']}run?id={run_id}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _start(data_dir: DataDir, run_id: str, message: bytes) -> None:
    """Without the mark by which a job's processes are ended."""
    sender = process.start_detached(
        SENDER,
        log=data_dir.run(run_id).log,
        environment={k: v for k, v in os.environ.items() if k != process.MARK},
        stdin=subprocess.PIPE,
    )
    _senders[:] = [earlier for earlier in _senders if earlier.poll() is None] + [sender]
    assert sender.stdin is not None
    with sender.stdin as pipe:  # shorter than a pipe holds: writing does not wait
        pipe.write(message)
