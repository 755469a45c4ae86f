"""What Ray's Jobs API answers, read."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from app.worker.launchers.launcher import State
from opd.errors import ErrorKind, UserError

NEVER_STARTED = ("JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "JOB_SUPERVISOR_ACTOR_START_FAILURE")
ASKS, NODES = "asks", "nodes"  # what a job's metadata says: Ray's API tells nothing of either


def parsed(text: str, where: str) -> Any:
    """Raises UserError where it is no JSON, as of another server or a proxy's page."""
    try:
        return json.loads(text)
    except ValueError:
        shown = " ".join(text.split())[:60]
        message = f'is not the address of Ray\'s Jobs API: it answers with "{shown}", not with JSON'
        raise UserError(message, where=where) from None


def jobs_in(answer: Any, where: str) -> dict[str, dict[str, Any]]:
    """By submission id. Raises UserError where that is not what was answered."""
    if not isinstance(answer, list) or not all(isinstance(job, dict) for job in answer):
        raise UserError("does not answer with a list of jobs, as Ray's Jobs API does", where=where)
    return {str(job["submission_id"]): job for job in answer if job.get("submission_id")}


def gpus_in(answer: Any) -> bool:
    """Whether a node that lives has one, in the summary of Ray's nodes."""
    nodes = answer.get("data", {}).get("summary", []) if isinstance(answer, dict) else []
    living = [node["raylet"] for node in nodes if node.get("raylet", {}).get("state") == "ALIVE"]
    return any((raylet.get("resourcesTotal") or {}).get("GPU") for raylet in living)


def state_of(job: dict[str, Any]) -> State:
    """Of a job's details. One that Ray gave up before it started is as if it had never been
    submitted; one whose node is gone tells no exit code."""
    status, code = job.get("status"), job.get("driver_exit_code")
    hosts = _hosts(job)
    match status:
        case "PENDING":
            return State("waiting", _waits(job))
        case "RUNNING":
            return State("running", "running" if hosts else _waits(job), hosts)
        case "SUCCEEDED":
            return State("ended", "", hosts, 0)
        case "STOPPED":
            return State("ended", "the job was stopped", hosts, kind=ErrorKind.TERMINATED)
        case "FAILED" if code is not None:
            return State("ended", "", hosts, int(code))
        case "FAILED" if job.get("error_type") in NEVER_STARTED:
            return State("unknown", "Ray gave up waiting for its resources")
        case "FAILED":
            return State("ended", _reason(job), hosts, kind=ErrorKind.LOST)
    return State("unknown", f"Ray calls it {status}")


def refusal(text: str) -> str:
    """What a traceback ends with."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "nothing more is told"


def asked_for(resources: Mapping[str, float], labels: Mapping[str, str], nodes: int = 1) -> str:
    """Of each node, in Ray's words: Ray does not say what of it is lacking."""
    units = {"CPU": "CPU", "GPU": "GPU", "memory": "GB of memory"}
    counts = {name: n / (1e9 if name == "memory" else 1) for name, n in resources.items()}
    texts = [f"{count:g} {units[name]}" for name, count in counts.items()]
    texts += [f"label {name}={value}" for name, value in labels.items()]
    return (f"{nodes} nodes, each with " if nodes > 1 else "") + ", ".join(texts)


def _metadata(job: dict[str, Any]) -> dict[str, str]:
    return job.get("metadata") or {}


def _hosts(job: dict[str, Any]) -> tuple[str, ...]:
    """None of a job on several nodes: Ray knows that of its driver, which takes no part."""
    host = urlsplit(job.get("driver_agent_http_address") or "").hostname
    return (host,) if host and NODES not in _metadata(job) else ()


def _waits(job: dict[str, Any]) -> str:
    return f"waiting for {_metadata(job).get(ASKS, 'a node')}"


def _reason(job: dict[str, Any]) -> str:
    lines = [line for line in str(job.get("message") or "").splitlines() if line.strip()]
    reason = lines[0][:300] if lines else str(job.get("error_type") or "it does not say why")
    return f"the job ended: {reason}"
