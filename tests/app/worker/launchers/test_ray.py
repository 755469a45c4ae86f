"""Against a server in Ray's place; a real one is asked in `tests/flows/hosts`."""

import json
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.worker.launchers.launcher import JOB_VARIABLE, ClusterSilentError, JobNeeds
from app.worker.launchers.ray import TOKEN_VARIABLE, Ray
from app.worker.launchers.several_nodes.ray_job import NodesJob
from opd.errors import UserError
from tests.support.network.web_server import free_port

LOG = Path("/data/a run's log")


class JobsApi:
    """`answers`: by method and path, a status and a text or what becomes JSON; `asked`: what came,
    with its headers; `closes`: how many times each connection is closed instead."""

    def __init__(self, answers: dict[str, tuple[int, Any]]) -> None:
        self.answers = answers
        self.requests: list[tuple[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.address = ""
        self.closes: dict[str, int] = {}

    @contextmanager
    def serving(self) -> Iterator["JobsApi"]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                name = f"{self.command} {self.path}"
                api.requests.append((name, body))
                api.headers = dict(self.headers)
                if api.closes.get(name, 0):
                    api.closes[name] -= 1
                    return
                status, content = api.answers.get(name, (404, "no such job"))
                data = (content if isinstance(content, str) else json.dumps(content)).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = answer

            def log_message(self, format: str, *arguments: Any) -> None:
                del format, arguments

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.fixture
def api() -> Iterator[JobsApi]:
    answers = {
        "GET /api/version": (200, {"version": "4", "ray_version": "2.60.0"}),
        "GET /api/jobs/": (200, []),
        "POST /api/jobs/": (200, {"submission_id": "x"}),
    }
    with JobsApi(answers).serving() as made:
        yield made


def submitted(api: JobsApi, needs: JobNeeds, key: str = "opd-a") -> tuple[str, dict[str, Any]]:
    job = Ray(api.address).submit(key, ["python", "-c", "print('a b')"], needs, LOG)
    return job, next(body for name, body in reversed(api.requests) if name == "POST /api/jobs/")


def test_a_cluster_that_is_there(api: JobsApi, monkeypatch: pytest.MonkeyPatch) -> None:
    Ray(f"{api.address}/").check()
    assert "Authorization" not in api.headers
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    Ray(api.address).check()
    assert api.headers["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    ("status", "content", "named"),
    [
        (200, "<!doctype html>\n<title>Log in</title>", 'answers with "<!doctype html> <title>Log'),
        (200, {"version": "3", "ray_version": "2.1.0"}, r"version 3 of .* \(Ray 2.1.0\), not 4"),
        (200, ["what"], "has version None"),
        (302, "elsewhere", "HTTP 302: elsewhere"),
        (401, "", f"set {TOKEN_VARIABLE}"),
        (404, "", "HTTP 404: nothing more is told"),
    ],
)
def test_what_is_not_rays_jobs_api_is_named(
    api: JobsApi, status: int, content: Any, named: str
) -> None:
    api.answers["GET /api/version"] = (status, content)
    with pytest.raises(UserError, match=named) as error:
        Ray(api.address).check()
    assert not isinstance(error.value, ClusterSilentError)
    assert error.value.where == f"--launcher ray={api.address}"


def test_an_address_that_does_not_answer_may_do_so_later(api: JobsApi) -> None:
    with pytest.raises(ClusterSilentError, match=r"does not answer: .*refused"):
        Ray(f"http://127.0.0.1:{free_port()}").check()
    api.answers["GET /api/jobs/"] = (500, "Traceback\n  File x\nTimeoutError: no agent\n")
    with pytest.raises(ClusterSilentError, match=r"HTTP 500: TimeoutError: no agent"):
        Ray(api.address).states(["a"])


def test_a_job_asks_for_what_its_run_needs(api: JobsApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPD_DATABASE_URL", "postgresql://u:p@ss@db/x")
    job, body = submitted(api, JobNeeds())
    assert (job, body["submission_id"], body["entrypoint_num_cpus"]) == ("opd-a.1", "opd-a.1", 1)
    assert "entrypoint_num_gpus" not in body
    command = """exec python -c 'print('"'"'a b'"'"')' >> '/data/a run'"'"'s log' 2>&1"""
    assert body["entrypoint"] == command
    variables = {"RAY_JOB_STOP_WAIT_TIME_S": "30", JOB_VARIABLE: "ray:opd-a.1"}
    assert body["runtime_env"] == {"env_vars": variables}
    assert body["metadata"] == {"log": str(LOG), "asks": "1 CPU"}
    assert "p@ss" not in json.dumps(body)
    needs = JobNeeds(gpus=2, cpus=4, memory_gb=1.5, hours=2, labels={"kind": "h100"})
    _, body = submitted(api, needs)
    assert body["entrypoint"].startswith("exec timeout --foreground --kill-after=60 7140 python")
    names = ("num_gpus", "num_cpus", "memory", "label_selector")
    resources = [body[f"entrypoint_{name}"] for name in names]
    assert resources == [2, 4, 1_500_000_000, {"kind": "h100"}]


@pytest.mark.parametrize(
    ("state", "total", "gpus"), [("ALIVE", {"GPU": 4.0}, 2), ("DEAD", {"GPU": 4.0}, None)]
)
def test_a_run_on_any_device_takes_a_gpu_where_there_is_one(
    api: JobsApi, state: str, total: dict[str, float], gpus: int | None
) -> None:
    nodes = [{"raylet": {"state": "ALIVE", "resourcesTotal": {"CPU": 2.0}}}]
    nodes.append({"raylet": {"state": state, "resourcesTotal": total}})
    api.answers["GET /nodes?view=summary"] = (200, {"data": {"summary": nodes}})
    _, body = submitted(api, JobNeeds(gpus=2, gpus_if_any=True))
    assert body.get("entrypoint_num_gpus") == gpus


def test_a_key_is_submitted_again_only_once_its_job_has_ended(api: JobsApi) -> None:
    living = [
        {"submission_id": "opd-a.1", "status": "FAILED", "driver_exit_code": 1},
        {"submission_id": "opd-a.2", "status": "PENDING"},
        {"submission_id": "opd-ab.7", "status": "RUNNING"},
        {"submission_id": None, "job_id": "02000000", "status": "RUNNING"},
    ]
    api.answers["GET /api/jobs/"] = (200, living)
    assert Ray(api.address).submit("opd-a", ["true"], JobNeeds(), LOG) == "opd-a.2"
    assert [name for name, _ in api.requests] == ["GET /api/jobs/"]
    living[1] |= {"status": "STOPPED"}
    assert submitted(api, JobNeeds())[0] == "opd-a.3"


def test_a_question_is_asked_again_where_its_connection_is_closed(api: JobsApi) -> None:
    api.closes["GET /api/version"] = 2
    Ray(api.address).check()
    assert [name for name, _ in api.requests] == ["GET /api/version"] * 3
    api.closes["GET /api/jobs/"] = 3
    with pytest.raises(ClusterSilentError, match="does not answer: Server disconnected"):
        Ray(api.address).states(["a"])


@pytest.mark.parametrize("arrived", [True, False])
def test_a_job_is_submitted_once_where_the_connection_is_closed(
    api: JobsApi, arrived: bool
) -> None:
    api.closes["POST /api/jobs/"] = 1
    if arrived:
        api.answers["GET /api/jobs/opd-a.1"] = (200, {"status": "PENDING"})
        assert submitted(api, JobNeeds())[0] == "opd-a.1"
    else:
        with pytest.raises(ClusterSilentError, match="does not answer"):
            submitted(api, JobNeeds())
    assert [name for name, _ in api.requests].count("POST /api/jobs/") == 1


def test_a_job_on_several_nodes_takes_them_itself(api: JobsApi) -> None:
    needs = JobNeeds(nodes=2, gpus=4, processes=4, labels={"kind": "h100"})
    job, body = submitted(api, needs)
    assert body["metadata"]["asks"] == "2 nodes, each with 1 CPU, 4 GPU, label kind=h100"
    assert not [name for name in body if name.startswith("entrypoint_")]
    *_, program, text, _, _, _ = shlex.split(body["entrypoint"])
    assert program == "app.worker.launchers.several_nodes.ray_job"
    nodes = NodesJob.parse(text)
    assert (nodes.key, nodes.needs, nodes.log) == (job, needs, str(LOG))
    assert nodes.command == ["python", "-c", "print('a b')"]
    assert nodes.resources == {"CPU": 1, "GPU": 4}


def test_what_ray_has_not_is_refused_before_anything_is_submitted(api: JobsApi) -> None:
    with pytest.raises(UserError) as error:
        submitted(api, JobNeeds(partition="gpu"))
    assert error.value.where == "resources.partition"
    assert not any(name.startswith("POST") for name, _ in api.requests)


def test_a_log_is_read_from_the_run_or_from_ray(api: JobsApi, tmp_path: Path) -> None:
    log = tmp_path / "log"
    api.answers["GET /api/jobs/a.1"] = (200, {"status": "FAILED", "metadata": {"log": str(log)}})
    api.answers["GET /api/jobs/a.1/logs"] = (200, {"logs": "cannot create log"})
    assert Ray(api.address).log("a.1") == "cannot create log"
    log.write_text("step 1")
    assert Ray(api.address).log("a.1") == "step 1"
    assert Ray(api.address).log("b.1") == ""
