"""Questions to the model process: the queue, the process itself, and how its death is told."""

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Engine, update

from app.worker.devices.holds import DeviceHold
from app.worker.models import process
from app.worker.models.supervision import ModelProcessSupervisor
from app.worker.owners.standing import LOST_AFTER
from app.worker.process import alive
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from opd.training.checkpoint_manifest import folder_of
from opd.types import CheckpointEvent
from storage import locks, schema
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs, requests
from storage.queue.hosts import tell_host
from storage.queue.jobs import Owner
from storage.write.records import RunWriter
from tests.support.stored_runs import me
from tests.support.studio import Studio

DEAD = Owner(2**22 + 1, 1.0, "boot")


Start = Callable[..., ModelProcessSupervisor]


@pytest.fixture
def supervise(tmp_path: Path, engine: Engine) -> Iterator[Start]:
    """Makes the supervisor's side with a command in the model process's place; ends its child."""
    made: list[ModelProcessSupervisor] = []

    def start(command: tuple[str, ...]) -> ModelProcessSupervisor:
        made.append(ModelProcessSupervisor(engine, DataDir(tmp_path), command))
        return made[-1]

    yield start
    for supervisor in made:
        if supervisor._child is not None:
            supervisor._child.kill()
            supervisor._child.wait()


def fake(body: str) -> tuple[str, ...]:
    """A command in the model process's place; it is given --data-dir DIR and has no torch."""
    return (sys.executable, "-c", f"import os, sys, time\nfolder = sys.argv[2]\n{body}")


def real(answers: str) -> tuple[str, ...]:
    """The model process itself with answers of its own."""
    return fake(
        f"from app.worker.models import process\n{answers}\n"
        "sys.exit(process.main(['--data-dir', folder, '--idle', '0.5'], ANSWERS))"
    )


def turn_until(
    supervisor: ModelProcessSupervisor, condition: Callable[[], Any], seconds: float = 120
) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        supervisor.turn()
        time.sleep(0.02)


def state(engine: Engine, name: str) -> dict[str, Any]:
    return requests.read_request(engine, name)


def test_a_question_from_asking_to_its_answer(engine: Engine) -> None:
    first, second = (requests.enqueue(engine, "doctor", {"n": n}) for n in (1, 2))
    assert requests.waiting(engine) == [first, second]
    assert first.startswith("ask-")
    claimed = requests.claim(engine, me())
    assert claimed == {"id": first, "kind": "doctor", "payload": {"n": 1}}
    assert requests.progress(engine, first, phase="reading", answer={"a": 1})
    assert state(engine, first)["phase"] == "reading" and state(engine, first)["answer"] == {"a": 1}
    assert requests.finish(engine, first, {"ok": True})
    row = state(engine, first)
    assert (row["state"], row["answer"], row["phase"]) == ("done", {"ok": True}, "")
    assert row["finished_at"] >= row["started_at"] >= row["created_at"]
    assert not requests.progress(engine, first, phase="late")
    assert not requests.fail(engine, first, "late")
    assert requests.fail(engine, second, "not asked any more")
    assert state(engine, second)["error_text"] == "not asked any more"
    assert requests.claim(engine, me()) is None


def test_old_answers_go_and_too_many_questions_are_refused(engine: Engine) -> None:
    old = requests.enqueue(engine, "doctor", {})
    requests.fail(engine, old, "x")
    with begin(engine) as connection:
        connection.execute(update(schema.question).values(created_at=time.time() - 90_000))
    for _ in range(requests.MAX_WAITING):
        requests.enqueue(engine, "doctor", {})
    with pytest.raises(UserError, match="kept for one day"):
        state(engine, old)
    with pytest.raises(UserError, match="20 of 20") as error:
        requests.enqueue(engine, "doctor", {})
    assert error.value.kind == "busy"


def test_questions_of_the_dead_are_found(engine: Engine) -> None:
    mine, theirs = (requests.enqueue(engine, "doctor", {}) for _ in range(2))
    requests.claim(engine, me())
    requests.claim(engine, DEAD)
    assert requests.abandoned(engine, alive) == [theirs]
    assert state(engine, mine)["state"] == "running"


def test_the_process_answers_and_ends_when_nothing_is_asked(tmp_path: Path, engine: Engine) -> None:
    good, bad = (requests.enqueue(engine, kind, {"n": 2}) for kind in ("double", "refuse"))
    phases = []

    def double(request: process.ModelRequest, progress: process.Progress) -> Any:
        assert progress("thinking", {"a": 1})
        phases.append(state(engine, good)["phase"])
        return {"twice": request.payload["n"] * 2}

    def refuse(request: process.ModelRequest, progress: process.Progress) -> Any:
        raise UserError("no such folder", where="student.model", kind=ErrorKind.MISSING_MODEL)

    process.serve(engine, DataDir(tmp_path), 0.3, {"double": double, "refuse": refuse})
    assert state(engine, good)["answer"] == {"twice": 4} and phases == ["thinking"]
    failed = state(engine, bad)
    assert failed["error_kind"] == "missing model" and "no such folder" in failed["error_text"]
    assert "safetensors" in failed["hint"]


def test_one_process_serves_a_data_directory(
    tmp_path: Path, engine: Engine, supervise: Start
) -> None:
    held = locks.take(DataDir(tmp_path).model_lock)
    assert held is not None
    assert locks.take(DataDir(tmp_path).model_lock) is None
    requests.enqueue(engine, "doctor", {})
    supervised = supervise(fake("open(folder + '/started', 'w')"))
    supervised.turn()
    assert not (tmp_path / "started").exists(), "somebody else serves already"
    held.close()
    turn_until(supervised, lambda: (tmp_path / "started").exists())


def test_it_is_started_when_asked_and_ends_by_itself(
    tmp_path: Path, engine: Engine, supervise: Start
) -> None:
    supervised = supervise(real("ANSWERS = {'pid': lambda asked, progress: {'pid': os.getpid()}}"))
    supervised.turn()
    assert not DataDir(tmp_path).model_log.exists(), "nothing was asked"
    names = [requests.enqueue(engine, "pid", {}) for _ in range(2)]
    turn_until(supervised, lambda: all(state(engine, n)["state"] == "done" for n in names))
    pids = {state(engine, n)["answer"]["pid"] for n in names}
    assert len(pids) == 1
    turn_until(supervised, lambda: not psutil.pid_exists(next(iter(pids))))
    again = requests.enqueue(engine, "pid", {})
    turn_until(supervised, lambda: state(engine, again)["state"] == "done")
    assert state(engine, again)["answer"]["pid"] not in pids


def test_a_killed_process_fails_its_question_with_the_cause(
    tmp_path: Path, engine: Engine, supervise: Start
) -> None:
    supervised = supervise(real("ANSWERS = {'wait': lambda asked, progress: time.sleep(600)}"))
    name = requests.enqueue(engine, "wait", {})
    turn_until(supervised, lambda: state(engine, name)["state"] == "running")
    with engine.connect() as connection:
        [pid] = (connection.execute(schema.question.select()).mappings().one()["owner_pid"],)
    psutil.Process(pid).kill()
    turn_until(supervised, lambda: state(engine, name)["state"] == "failed")
    row = state(engine, name)
    assert row["error_kind"] == "killed"
    assert "SIGKILL" in row["error_text"] and "memory" in row["hint"]


def test_an_unexpected_error_is_told_with_its_last_line(
    tmp_path: Path, engine: Engine, supervise: Start
) -> None:
    supervised = supervise(real("ANSWERS = {'bug': lambda asked, progress: {}['nothing']}"))
    name = requests.enqueue(engine, "bug", {})
    turn_until(supervised, lambda: state(engine, name)["state"] == "failed")
    assert "exit code 1" in state(engine, name)["error_text"]
    assert "KeyError: 'nothing'" in state(engine, name)["error_text"]


def test_one_that_cannot_start_fails_the_question_and_is_not_started_for_ever(
    tmp_path: Path, engine: Engine, supervise: Start
) -> None:
    supervised = supervise(fake("sys.exit('no such library')"))
    name = requests.enqueue(engine, "doctor", {})
    turn_until(supervised, lambda: state(engine, name)["state"] == "failed")
    assert "no such library" in state(engine, name)["error_text"]
    assert requests.waiting(engine) == []


def test_a_new_supervisor_buries_what_the_old_one_left(
    tmp_path: Path, engine: Engine, supervise: Start
) -> None:
    name = requests.enqueue(engine, "doctor", {})
    requests.claim(engine, DEAD)
    supervise(fake("")).turn()
    assert "the model process is gone" in state(engine, name)["error_text"]


def test_the_doctor_is_asked_through_the_supervisor(tmp_path: Path) -> None:
    studio = Studio(tmp_path)
    try:
        studio.supervisor()
        payload = {"config": {"sampling": {"max_new_tokens": 8}}, "models": False}
        name = requests.enqueue(studio.engine, "doctor", payload)
        studio.wait(lambda: state(studio.engine, name)["state"] in ("done", "failed"))
        row = state(studio.engine, name)
        assert row["state"] == "done", row
        assert row["answer"]["ok"] and row["answer"]["memory"]["device"] > 0
        assert "tokenizer-same" in {f["code"] for f in row["answer"]["findings"]}
    finally:
        studio.close()


def test_a_configuration_may_name_another_run(tmp_path: Path, engine: Engine) -> None:
    """Its newest checkpoint is examined; one that is not there is told, and nothing remembered."""
    run_id = jobs.create_run(engine, parse({"steps": 1}))
    attempt = jobs.claim(engine, run_id, "cpu", me())
    assert attempt is not None
    folder = folder_of(DataDir(tmp_path).run(run_id).checkpoints, 1)
    shutil.copytree(str(resources.files("opd") / "bundled" / "student"), folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    manifest = {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
    writer = RunWriter(engine, run_id, attempt)
    writer.checkpoint(CheckpointEvent(1, str(folder), manifest))
    named, unknown = (
        requests.enqueue(engine, "doctor", {"config": {"student": s}, "models": False})
        for s in (run_id, "run-nothing")
    )
    process.serve(engine, DataDir(tmp_path), 0.1)
    assert state(engine, named)["state"] == "done", state(engine, named)
    codes = {f["code"] for f in state(engine, named)["answer"]["findings"]}
    assert "tokenizer-same" in codes and "model-of-a-run" not in codes
    assert "there is no run run-nothing" in state(engine, unknown)["error_text"]
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [run_id]


class HeldGpu(DeviceHold):
    """A GPU that a run wants from the beginning."""

    closed = 0

    def is_awaited(self, engine: Engine) -> bool:
        return True

    def close(self) -> None:
        HeldGpu.closed += 1


def test_the_process_ends_where_a_run_wants_its_gpu(tmp_path: Path, engine: Engine) -> None:
    first, second = (requests.enqueue(engine, "look", {}) for _ in range(2))

    def look(request: process.ModelRequest, progress: process.Progress) -> Any:
        request.cache.hold(lambda: HeldGpu(parse({})))
        return {}

    process.serve(engine, DataDir(tmp_path), 60, {"look": look})
    assert state(engine, first)["state"] == "done"
    assert state(engine, second)["state"] == "queued", "left to the next process"
    assert HeldGpu.closed == 1


def test_a_lack_of_memory_is_the_answer_and_another_error_is_not(
    tmp_path: Path, engine: Engine
) -> None:
    full, broken = (requests.enqueue(engine, kind, {}) for kind in ("full", "broken"))

    def fail(text: str) -> process.Answer:
        def answer(request: process.ModelRequest, progress: process.Progress) -> Any:
            raise RuntimeError(text)

        return answer

    answers = {"full": fail("CUDA out of memory. Tried to allocate 2 GiB"), "broken": fail("bug")}
    with pytest.raises(RuntimeError, match="bug"):
        process.serve(engine, DataDir(tmp_path), 60, answers)
    assert state(engine, full)["error_kind"] == "out of memory"
    assert state(engine, broken)["state"] == "running", "the supervisor tells of our death"


def test_prompts_are_previewed_without_models(tmp_path: Path, engine: Engine) -> None:
    suites = {"evaluation": {"suites": {"mine": {"source": "bundled", "count": 4}}}}
    payload = {"config": suites, "prompts": "evaluation.suites.mine", "count": 2}
    seen = requests.enqueue(engine, "prompts", payload)
    other = {"config": {"student": {"model": "run-nobody"}}, "prompts": "train", "count": 1}
    refused = requests.enqueue(engine, "prompts", other)
    process.serve(engine, DataDir(tmp_path), 0.3)
    answer = state(engine, seen)["answer"]
    assert (answer["count"], len(answer["prompts"]), answer["problem"]) == (4, 2, "")
    assert answer["prompts"][0]["readers"][0]["pieces"]
    assert "there is no run run-nobody" in state(engine, refused)["error_text"]


def test_a_request_is_first_for_the_host_that_was_asked(engine: Engine) -> None:
    other = Owner(7, 1.0, "another boot", "other 1 x")
    name = requests.enqueue(engine, "doctor", {}, me().boot)
    assert requests.waiting(engine, boot=other.boot) == []
    assert requests.claim(engine, other) is None
    assert requests.waiting(engine, boot=me().boot) == [name] == requests.waiting(engine)
    with begin(engine) as connection:  # it has no supervisor, say
        created = schema.question.c.created_at - requests.OTHERS_AFTER
        connection.execute(update(schema.question).values(created_at=created))
    assert requests.waiting(engine, boot=other.boot) == [name]
    claimed = requests.claim(engine, other)
    assert claimed is not None and claimed["id"] == name
    assert requests.claim(engine, me()) is None


def test_a_request_of_another_host_fails_once_nothing_is_heard_of_it(
    engine: Engine, tmp_path: Path
) -> None:
    supervisor = ModelProcessSupervisor(engine, DataDir(tmp_path, "here"), ("false",))
    other = Owner(7, 1.0, "another boot", "other 1 x")
    name = requests.enqueue(engine, "doctor", {})
    requests.claim(engine, other)
    tell_host(engine, other.boot, "other", [])
    supervisor.turn()
    assert state(engine, name)["state"] == "running"
    with begin(engine) as connection:
        seen = schema.host.c.seen_at - LOST_AFTER
        connection.execute(update(schema.host).values(seen_at=seen))
    supervisor.turn()
    assert state(engine, name)["error_text"].startswith("the model process is gone")
