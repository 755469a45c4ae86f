"""A run's log: the file, what the launcher has of the job, or the host on which it lies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from app.worker.launchers import output
from app.worker.launchers.launcher import ClusterSilentError
from app.worker.owners.place import host_name
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs
from storage.queue.jobs import Owner
from storage.schema import run
from tests.support.api_client import Api


class OneJob:
    """The part of a launcher that tells of the output of `slurm:17`."""

    name = "slurm"

    def __init__(self, text: str | None) -> None:
        self.text = text

    def log(self, job: str) -> str:
        assert job == "17"
        if self.text is None:
            raise ClusterSilentError("slurmctld does not answer", where="slurm")
        return self.text


def elsewhere(engine: Engine, cluster_job: str | None, host: str = "node-2") -> str:
    run_id = jobs.create_run(engine, parse({}))
    owner = Owner(4711, 12.5, "boot-2", f"{host} 42 dir")
    assert jobs.claim(engine, run_id, "cuda:0", owner, pool=run_id) is not None
    with begin(engine) as connection:
        connection.execute(update(run).where(run.c.id == run_id).values(cluster_job=cluster_job))
    return run_id


def test_a_log_that_cannot_be_seen_is_told_with_its_host(
    api: Api, engine: Engine, tmp_path: Path
) -> None:
    there, here = elsewhere(engine, None), elsewhere(engine, None, host_name())
    assert api.get(f"/runs/{there}/log") == {"text": "", "next": 0, "size": 0, "host": "node-2"}
    assert "host" not in api.get(f"/runs/{here}/log")  # which has not written one yet
    path = DataDir(tmp_path).run(there).log
    path.parent.mkdir(parents=True)
    path.write_text("shared\n")
    assert api.get(f"/runs/{there}/log") == {"text": "shared\n", "next": 7, "size": 7}


@pytest.mark.parametrize(
    ("cluster_job", "text", "expected"),
    [
        ("slurm:17", "step 1/4 ä\n", ("step 1/4 ä\n", None)),
        ("slurm:17", "", ("", "node-2")),
        ("slurm:17", None, ("", "node-2")),
        ("slurm:?opd-run", "not asked", ("", "node-2")),
        ("ray:17", "not asked", ("", "node-2")),
        (None, "not asked", ("", "node-2")),
    ],
)
def test_a_job_of_the_cluster_is_read_from_its_launcher(
    cluster_job: str | None,
    text: str | None,
    expected: tuple[str, str | None],
    api: Api,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPD_LAUNCHER", "slurm")
    monkeypatch.setattr(output, "launcher_named", lambda _: OneJob(text))
    run_id = elsewhere(engine, cluster_job)
    reply = api.get(f"/runs/{run_id}/log")
    assert (reply["text"], reply.get("host")) == expected
    if expected[0]:
        rest: dict[str, Any] = api.get(f"/runs/{run_id}/log", offset=reply["next"])
        assert (rest["text"], rest["size"]) == ("", len(expected[0].encode()))


def test_the_command_says_on_which_host_the_log_lies(
    opd: Callable[..., tuple[int, str, str]], engine: Engine, tmp_path: Path
) -> None:
    run_id = elsewhere(engine, None)
    code, _, err = opd("log", run_id, "--data-dir", str(tmp_path))
    assert code == 2
    assert f"{run_id}: has its log on node-2, which cannot be read from here" in err
