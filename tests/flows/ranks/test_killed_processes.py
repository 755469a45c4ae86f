"""A process of a run of two is killed at three moments: the run ends with its cause, nobody is left
behind, and the run goes on from its last checkpoint with all of its steps."""

import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import psutil
import pytest
import torch

from app.worker import job
from app.worker.owners.standing import Judge
from app.worker.ranks import companions
from app.worker.recovery import bury_dead
from opd.ranks.sharding import Shards
from opd.training import checkpoint, trainer, update
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.runs import read_steps
from tests.support import tiny_models
from tests.support.databases.matrix import new_database
from tests.support.devices.forked_followers import ForkedFollower
from tests.support.in_process_runs import JobRunner

LIMIT = 60  # seconds
STEPS = 3
SETTINGS = {
    "optimizer": {"learning_rate": 1e-2, "micro_batch_tokens": 64},
    "sampling": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 12},
    "steps": STEPS,
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_models.save_pair(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def undisturbed(inputs, tmp_path_factory):
    """The losses of one process."""
    made = JobRunner(tmp_path_factory.mktemp("alone") / "data", inputs)
    run_id = made.queue(**SETTINGS)
    assert made.attempt(run_id)["status"] == "finished"
    losses = read_steps(made.engine, run_id)["columns"]["loss"]
    made.engine.dispose()
    return losses


@pytest.fixture
def runner(inputs, tmp_path):
    made = JobRunner(tmp_path / "data", inputs)
    yield made
    made.engine.dispose()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def starting(victim):
    load = trainer.load

    def killed(config, source, callbacks, ranks):
        loaded = load(config, source, callbacks, ranks)
        return die() if ranks.rank == victim else loaded

    trainer.load = killed


def within_a_step(victim):
    """Between two micro-batches of the second step."""
    forward_backward, step = update.MicroBatch.forward_backward, trainer.update
    begun = []  # of each step, its micro-batches

    def counted(*arguments):
        begun.append(0)
        return step(*arguments)

    def killed(self, clock):
        begun[-1] += 1
        if self.learner.ranks.rank == victim and len(begun) == begun[-1] == 2:
            die()
        return forward_backward(self, clock)

    trainer.update, update.MicroBatch.forward_backward = counted, killed


def saving(victim):
    """The second checkpoint, whose files are half written, or which is being put together."""
    save_file, put_together = checkpoint.save_file, Shards._put_together
    saved = []

    def killed(*arguments):
        saved.append(arguments)
        if victim == 0 and len(saved) == 2:
            die()
        save_file(*arguments)

    def killed_before(self):
        saved.append(self)
        if victim == 1 and len(saved) == 2:
            die()
        return put_together(self)

    checkpoint.save_file = killed
    if victim:
        Shards._put_together = killed_before


def first_process(data_dir, run_id, plant, victim, mark):
    """The job, as a process of its own."""
    torch.set_num_threads(1)
    plant(victim)
    companions.subprocess = SimpleNamespace(**vars(companions.subprocess))
    companions.subprocess.Popen = lambda *a, **k: noted(ForkedFollower(*a, **k), mark)
    engine = new_database(data_dir)
    claimed = job.claim(engine, DataDir(data_dir), run_id, "cpu")
    job.run(claimed)


def noted(follower, mark):
    mark.write_text(str(follower.pid))
    return follower


MOMENTS = {"starting": starting, "within a step": within_a_step, "saving": saving}


@pytest.mark.parametrize("victim", [0, 1], ids=["first", "other"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_process_ends_the_run_which_goes_on(
    runner, undisturbed, tmp_path, monkeypatch, moment, victim
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sharding = "full" if moment == "saving" else "none"
    run_id = runner.queue(**SETTINGS, devices=2, sharding=sharding)
    mark = tmp_path / "other"
    leader = multiprocessing.get_context("fork").Process(
        target=first_process,
        args=(runner.data_dir, run_id, MOMENTS[moment], victim, mark),
    )
    leader.start()
    leader.join(LIMIT)
    assert not leader.is_alive()
    until = time.monotonic() + LIMIT
    while psutil.pid_exists(int(mark.read_text())):
        assert time.monotonic() < until, "left behind"
        time.sleep(0.05)
    assert not list(tmp_path.glob("opd-ranks-*"))
    if victim == 0:
        assert leader.exitcode == -signal.SIGKILL
        data_dir = DataDir(runner.data_dir)
        bury_dead(runner.engine, data_dir, Judge(data_dir))
        assert runner.run(run_id)["status"] == "interrupted"
    else:
        run = runner.run(run_id)
        assert run["status"] == "failed"
        assert "process 2 of 2 killed by signal 9 (SIGKILL)" in run["error_text"]
    assert [c["step"] for c in runner.run(run_id)["checkpoints"]] == (
        [] if moment == "starting" else [1]
    )
    jobs.requeue(runner.engine, run_id, settings=["devices=1", "sharding=none"])
    run = runner.attempt_queued(run_id)
    assert run["status"] == "finished", run["error_text"]
    assert runner.at_rest(run_id)[-1] == STEPS
    losses = read_steps(runner.engine, run_id)["columns"]["loss"]
    assert losses == pytest.approx(undisturbed, rel=1e-4) and len(losses) == STEPS
