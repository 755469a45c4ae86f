"""Ray: jobs are submitted to its Jobs API, asked for and ended there, over HTTP.

Nothing of Ray is imported. Each job takes a CPU of Ray's count besides its GPUs, so that it may run
on any node, and not together with all others on the head. One on several nodes takes these itself,
as `app.worker.launchers.several_nodes.ray_job`.
"""

import os
import shlex
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from app.worker.launchers.launcher import (
    JOB_VARIABLE,
    LEAD,
    PATIENCE,
    ClusterSilentError,
    JobNeeds,
    State,
)
from app.worker.launchers.ray_answers import (
    ASKS,
    NODES,
    asked_for,
    gpus_in,
    jobs_in,
    parsed,
    refusal,
    state_of,
)
from app.worker.launchers.several_nodes.ray_job import PROGRAM, NodesJob
from opd.errors import UserError
from opd.network import HttpClient, client

API = "4"  # version of the Jobs API
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"  # Ray's own
TRIES = 3  # to ask what may be asked again
CLOSED = (httpx.RemoteProtocolError, httpx.ReadError)  # what came of the question is not known
OF_ONE_NODE = {
    "CPU": "entrypoint_num_cpus",
    "GPU": "entrypoint_num_gpus",
    "memory": "entrypoint_memory",
}


class Ray:
    name = "ray"
    title = "Ray"

    def __init__(self, address: str) -> None:
        self.grace = 30.0  # told to Ray with each job; its own is 3
        self._address = address.rstrip("/")
        self._where = f"--launcher ray={self._address}"

    def check(self) -> None:
        answer = self._ask("GET", "/api/version")
        facts = answer if isinstance(answer, dict) else {}
        if facts.get("version") != API:
            version = f"{facts.get('version')} of Ray's Jobs API (Ray {facts.get('ray_version')})"
            raise UserError(f"has version {version}, not {API}", where=self._where)

    def submit(self, key: str, command: Sequence[str], needs: JobNeeds, log: Path) -> str:
        earlier = {n: job for n, job in self._jobs().items() if n.rpartition(".")[0] == key}
        living = next((name for name, job in earlier.items() if not state_of(job).over), None)
        if living is not None:
            return living
        job = f"{key}.{1 + max((int(n.rpartition('.')[2]) for n in earlier), default=0)}"
        variables = {"RAY_JOB_STOP_WAIT_TIME_S": f"{self.grace:.0f}", JOB_VARIABLE: f"ray:{job}"}
        resources = _resources(needs, self._gpus(needs))
        metadata = {"log": str(log), ASKS: asked_for(resources, needs.labels, needs.nodes)}
        of_one_node: dict[str, Any] = {OF_ONE_NODE[n]: count for n, count in resources.items()}
        of_one_node |= {"entrypoint_label_selector": needs.labels} if needs.labels else {}
        if needs.nodes > 1:
            metadata[NODES], of_one_node = str(needs.nodes), {}
            command = [*PROGRAM, NodesJob(job, command, needs, resources, str(log)).text()]
        request = {
            "submission_id": job,
            "entrypoint": _entrypoint(command, needs, log),
            "runtime_env": {"env_vars": variables},
            "metadata": metadata,
            **of_one_node,
        }
        try:
            self._ask("POST", "/api/jobs/", request)
        except ClusterSilentError:  # it may have arrived
            if self._ask("GET", f"/api/jobs/{job}", none=True) is None:
                raise
        return job

    def states(self, jobs: Collection[str]) -> dict[str, State]:
        if not jobs:
            return {}
        listed = self._jobs()
        gone = State("unknown", "Ray has no such job")
        return {job: state_of(listed[job]) if job in listed else gone for job in jobs}

    def stop(self, job: str) -> None:
        self._ask("POST", f"/api/jobs/{job}/stop", none=True)

    def log(self, job: str) -> str:
        """What could not go to the run's log is in Ray's own."""
        info = self._ask("GET", f"/api/jobs/{job}", none=True)
        if not isinstance(info, dict):
            return ""
        try:
            return Path((info.get("metadata") or {})["log"]).read_text(errors="replace")
        except (OSError, KeyError):
            logs = self._ask("GET", f"/api/jobs/{job}/logs", none=True)
            return str(logs.get("logs") or "") if isinstance(logs, dict) else ""

    @cached_property
    def _http(self) -> HttpClient:
        """Without connections that are kept: Ray closes them when it likes."""
        return client(
            self._address, timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def _jobs(self) -> dict[str, dict[str, Any]]:
        return jobs_in(self._ask("GET", "/api/jobs/"), self._where)

    def _gpus(self, needs: JobNeeds) -> int:
        """Of a run on any device: on a GPU where Ray has some."""
        if not needs.gpus or not needs.gpus_if_any:
            return needs.gpus
        return needs.gpus if gpus_in(self._ask("GET", "/nodes?view=summary")) else 0

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, none: bool = False
    ) -> Any:
        """The answer's JSON; None where there is nothing of that name and `none` allows it."""
        answer = self._answer(method, path, body, TRIES if body is None else 1)
        if answer.status_code == httpx.codes.NOT_FOUND and none:
            return None
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            text = f"refuses us (HTTP {answer.status_code}): set {TOKEN_VARIABLE} to Ray's token"
            raise UserError(text, where=self._where)
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            reason = f"HTTP {answer.status_code}: {refusal(answer.text)}"
            raise ClusterSilentError(f"cannot answer now ({reason})", where=self._where)
        if answer.status_code >= httpx.codes.MULTIPLE_CHOICES:
            reason = f"HTTP {answer.status_code}: {refusal(answer.text)}"
            raise UserError(f"refuses the request ({reason})", where=self._where)
        return parsed(answer.text, self._where)

    def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, tries: int
    ) -> httpx.Response:
        token = os.environ.get(TOKEN_VARIABLE)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            return self._http.request(method, f"{self._address}{path}", json=body, headers=headers)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            if tries > 1 and isinstance(error, CLOSED):
                return self._answer(method, path, body, tries - 1)
            text = f"does not answer: {error or type(error).__name__}"
            raise ClusterSilentError(text, where=self._where) from None


def _entrypoint(command: Sequence[str], needs: JobNeeds, log: Path) -> str:
    """For a shell that the command takes the place of, so that signals reach it, and its exit code
    is the job's."""
    limit = []
    if needs.hours is not None:
        seconds = max(1, round(needs.hours * 3600) - LEAD)
        limit = ["timeout", "--foreground", f"--kill-after={LEAD}", str(seconds)]
    return f"exec {shlex.join([*limit, *command])} >> {shlex.quote(str(log))} 2>&1"


def _resources(needs: JobNeeds, gpus: int) -> dict[str, float]:
    """Of each node, by Ray's names. Raises UserError for what Ray has not."""
    if needs.partition is not None:
        text = f"is {needs.partition}: Ray has none; choose nodes by resources.labels"
        raise UserError(text, where="resources.partition")
    resources: dict[str, float] = {"CPU": needs.cpus or 1}
    if gpus:
        resources["GPU"] = gpus
    if needs.memory_gb is not None:
        resources["memory"] = round(needs.memory_gb * 1e9)
    return resources
