"""SLURM's programs as small scripts that note how they were called; a real one is in
tests/flows/hosts/test_slurm.py."""

import os
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.worker.launchers import cluster, slurm
from app.worker.launchers.cluster import Controller
from app.worker.launchers.database import DATABASE_VARIABLE
from app.worker.launchers.launcher import PATIENCE, ClusterSilentError, JobNeeds
from app.worker.launchers.slurm import Slurm
from opd.config.run import parse
from opd.errors import UserError
from storage.data_dir import DataDir
from storage.queue import jobs, placing

URL = "postgresql+psycopg://me:secret-word@db/opd"
COMMAND = ("/venv/bin/python", "-P", "/opt/opd launcher.py", "app.worker.job", "run-a")


class Programs:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers("sinfo", "main*|2:00:00|2|2|4000|gpu:2|up")
        self.answers("squeue", "")
        self.answers("sbatch", "17;cluster")

    def answers(self, name: str, text: str, code: int = 0) -> None:
        """On standard error where it fails."""
        where = ">&2" if code else ""
        script = (
            f'#!/bin/sh\nexec 3>"{self.folder}/{name}.calls"\necho "$@" >&3\nenv >&3\ncat >&3\n'
        )
        program = self.folder / name
        program.write_text(f"{script}cat {where} <<'END'\n{text}\nEND\nexit {code}\n")
        program.chmod(0o755)

    def take(self, seconds: float) -> None:
        """So long each: what was asked is known at the start, what is done, at the end."""
        job, sleep = self.folder / "job", f"sleep {seconds}"
        listed = f"found=$([ ! -f '{job}' ] || echo '17|PENDING|Resources||0|')"
        for name, acts in (
            ("sinfo", f"{sleep}; echo 'main*|2:00:00|2|2|4000|gpu:2|up'"),
            ("squeue", f'{listed}; {sleep}; echo "$found"'),
            ("sbatch", f"{sleep}; touch '{job}'; echo 17"),
        ):
            record = f'echo "$@" >> "{self.folder}/{name}.calls"'
            (self.folder / name).write_text(f"#!/bin/sh\n{record}\n{acts}\n")

    def calls(self, name: str) -> str:
        """Its arguments, its environment and its input."""
        return (self.folder / f"{name}.calls").read_text()


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return Programs(tmp_path)


def test_a_job_is_a_script_that_says_what_it_needs(programs: Programs, tmp_path: Path) -> None:
    needs = JobNeeds(gpus=2, cpus=2, memory_gb=2, hours=1.5, partition="main")
    assert Slurm().submit("opd-run-a-1", COMMAND, needs, tmp_path / "50%.txt") == "17"
    calls = programs.calls("sbatch")
    options = calls.splitlines()[0].split()
    assert options[0] == "--parsable"
    assert set(options[1:]) == {
        *("--job-name=opd-run-a-1", "--nodes=1", "--no-requeue", "--chdir=/", "--time=90"),
        *("--gres=gpu:2", "--cpus-per-task=2", "--mem=1908M", "--partition=main"),
        *("--signal=B:TERM@60", f"--output={tmp_path}/50%%.txt", "--open-mode=append"),
    }
    assert 'export OPD_CLUSTER_JOB="slurm:$SLURM_JOB_ID"' in calls
    assert "exec /venv/bin/python -P '/opt/opd launcher.py' app.worker.job run-a\n" in calls


def test_on_several_nodes_torchrun_starts_it(programs: Programs, tmp_path: Path) -> None:
    Slurm().submit("key", COMMAND, JobNeeds(nodes=2, processes=2), tmp_path / "log")
    calls = programs.calls("sbatch")
    assert "--ntasks-per-node=1" in calls
    [line] = [line for line in calls.splitlines() if line.startswith("exec srun ")]
    assert "several_nodes.torchrun --nnodes=2 --nproc-per-node=2" in line
    assert '--rdzv-endpoint="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)' in line
    assert line.endswith(
        "--no-python /venv/bin/python -P '/opt/opd launcher.py' app.worker.job run-a"
    )


def test_no_secret_and_nothing_of_another_job_is_handed_on(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        (DATABASE_VARIABLE, URL),
        ("SLURM_JOB_ID", "of-another"),
        ("SQUEUE_FORMAT", "of-a-person"),
        ("CUDA_VISIBLE_DEVICES", "of-the-server"),
        ("SLURM_CONF", "/kept/slurm.conf"),
    ):
        monkeypatch.setenv(name, value)
    Slurm().submit("key", COMMAND, JobNeeds(), tmp_path / "log")
    calls = programs.calls("sbatch") + programs.calls("squeue")
    assert not any(word in calls for word in ("secret-word", "of-another", "of-a-person"))
    assert "of-the-server" not in calls and "SLURM_CONF=/kept/slurm.conf" in calls


def test_a_key_that_lives_is_not_submitted_again(programs: Programs, tmp_path: Path) -> None:
    programs.answers("squeue", "16|FAILED|BadConstraints||1|\n18|PENDING|Resources||0|")
    assert Slurm().submit("key", COMMAND, JobNeeds(), tmp_path / "log") == "18"
    assert not (tmp_path / "sbatch.calls").exists()
    programs.answers("squeue", "16|FAILED|BadConstraints||1|")
    assert Slurm().submit("key", COMMAND, JobNeeds(), tmp_path / "log") == "17"


def test_states_of_known_and_unknown_jobs(programs: Programs) -> None:
    programs.answers("squeue", "18|PENDING|Resources||0|")
    states = Slurm().states(["18", "99"])
    assert (states["18"].phase, states["99"].phase) == ("waiting", "unknown")
    programs.answers("squeue", "slurm_load_jobs error: Invalid job id specified", 1)
    assert Slurm().states(["99"])["99"].why == "SLURM has no such job"
    assert Slurm().states([]) == {}


@pytest.mark.parametrize(
    "said",
    [
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "squeue: error: Munge encode failed: Failed to access '/run/munge/munge.socket.2'",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "squeue: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\n"
        "squeue: fatal: Could not establish a configuration source: unreachable",
    ],
)
def test_a_cluster_that_does_not_answer(programs: Programs, tmp_path: Path, said: str) -> None:
    programs.answers("squeue", said, 1)
    with pytest.raises(ClusterSilentError, match="does not answer"):
        Slurm().states(["18"])
    with pytest.raises(ClusterSilentError):
        Slurm().submit("key", COMMAND, JobNeeds(), tmp_path / "log")


def test_what_it_refuses_is_told_in_its_words(programs: Programs, tmp_path: Path) -> None:
    said = "sbatch: error: invalid account\nsbatch: error: Batch job submission failed: No account"
    programs.answers("sbatch", said, 1)
    with pytest.raises(UserError, match="invalid account; Batch job submission failed") as refused:
        Slurm().submit("key", COMMAND, JobNeeds(), tmp_path / "log")
    assert not isinstance(refused.value, ClusterSilentError)
    with pytest.raises(UserError, match="is for Ray") as refused:
        Slurm().submit("key", COMMAND, JobNeeds(labels={"a": "b"}), tmp_path / "log")
    assert refused.value.where == "resources.labels"


def test_its_grace_is_the_clusters(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.answers("scontrol", "KillWait                = 45 sec")
    slurm = Slurm()
    slurm.check()
    assert slurm.grace == 45
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterSilentError, match="scontrol is not installed here"):
        slurm.check()


def test_stopping_and_the_log(programs: Programs, tmp_path: Path) -> None:
    programs.answers("scancel", "")
    Slurm().stop("17")
    assert programs.calls("scancel").splitlines()[0] == "--quiet 17"
    (tmp_path / "5%.txt").write_text("said")
    programs.answers("scontrol", f"JobId=17\n   StdOut={tmp_path}/5%%.txt\n")
    assert Slurm().log("17") == "said"
    programs.answers("scontrol", "slurm_load_jobs error: Invalid job id specified", 1)
    assert Slurm().log("17") == ""


def test_a_cluster_that_barely_answers_in_time_is_given_a_run_once(
    programs: Programs, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another controller looks all the while, and would submit what it takes for cut short."""
    patience = 2.0
    programs.take(0.6 * patience)
    monkeypatch.setattr(slurm, "PATIENCE", patience)
    within = cluster.SUBMITTED_WITHIN * patience / PATIENCE
    monkeypatch.setattr(cluster, "SUBMITTED_WITHIN", within)
    run_id = jobs.create_run(engine, parse({"device": "cpu"}))
    programs.answers("scontrol", "")
    one, two = (Controller(engine, DataDir(tmp_path), COMMAND, Slurm()) for _ in range(2))
    first = threading.Thread(target=one.turn)
    first.start()
    while placing.job_of(engine, run_id) is None:
        time.sleep(0.01)
    while first.is_alive():
        two.turn()
        time.sleep(0.05)
    two.turn()
    assert placing.job_of(engine, run_id) == "slurm:17"
    assert len(programs.calls("sbatch").splitlines()) == 1
