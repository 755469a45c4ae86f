"""Runs of two hosts that share a database and no folder, with an address for their files."""

import multiprocessing
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.sources import uploads
from app.sources.folders import Look
from app.worker.attempts.checkpoints import start_of
from app.worker.files.saved_model import model_size, save_model
from app.worker.models.loaded import requested_models
from app.worker.models.request import ModelCache, ModelRequest, ProgressReporter
from app.worker.run_files import address
from app.worker.run_files.choice import run_files
from bench import kills
from opd.errors import UserError
from opd.types import CheckpointEvent, StepEvent
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.read.runs import read_run
from storage.system_usage import SystemUsageWriter, usage_columns
from tests.support import tiny_models
from tests.support.in_process_runs import JobRunner, dying
from tests.support.network import checkpoint_saver, object_store
from tests.support.network.object_store import ObjectStore

STORES = ("file", pytest.param("s3", marks=pytest.mark.engines))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def s3() -> Iterator[ObjectStore]:
    with object_store.serving() as started:
        yield started


@pytest.fixture
def bucket(s3: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    s3.empty()
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(address, "PAUSES", (0.0,))
    run_files.cache_clear()
    return s3


@pytest.fixture
def files(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("bucket")
        return f"s3://{object_store.BUCKET}/team"
    (tmp_path / "team").mkdir()
    return f"file://{tmp_path}/team"


def two_hosts(tmp_path: Path, inputs: Path, files: str) -> tuple[JobRunner, JobRunner]:
    one = JobRunner(tmp_path / "one", inputs, files=files)
    return one, JobRunner(tmp_path / "two", inputs, one.engine, files)


def read_log(runner: JobRunner, run_id: str) -> str:
    log = run_files(runner.directory).log(run_id)
    assert log is not None
    return log.read(0, log.size).decode()


@pytest.mark.parametrize("files", STORES, indirect=True)
def test_a_run_goes_on_from_another_host_as_if_it_had_never_stopped(
    inputs: Path, tmp_path: Path, files: str
) -> None:
    alone = JobRunner(tmp_path / "alone", inputs)
    run_id = alone.queue(checkpoints={"every": 1, "keep": 2})
    shutil.copytree(alone.data_dir, tmp_path / "one")
    assert alone.attempt(run_id)["status"] == "finished"
    one = JobRunner(tmp_path / "one", inputs, open_database(tmp_path / "one"), files)
    two = JobRunner(tmp_path / "two", inputs, one.engine, files)
    died = one.attempt(run_id, dying(lambda e: isinstance(e, StepEvent) and e.step == 3))
    assert died["status"] == "failed"
    assert [c["path"] for c in died["checkpoints"]] == [
        f"{files}/runs/{run_id}/checkpoints/step-{step:06d}.1" for step in (1, 2)
    ]
    shutil.rmtree(one.data_dir / "runs")  # that host is gone
    assert two.attempt(run_id)["status"] == "finished"
    whole = kills.rows(alone.engine) | kills.files(alone.data_dir, run_id)
    assert (
        kills.differences(whole, kills.rows(two.engine) | kills.files(two.data_dir, run_id)) == []
    )
    assert [c["step"] for c in two.run(run_id)["checkpoints"]] == [3, 4]
    log = read_log(one, run_id)
    assert log == read_log(two, run_id)
    assert "step 3/4" in log and "attempt 2, from step 2" in log and "run finished" in log
    third = DataDir(tmp_path / "three", files=files)
    said = model_size(third, two.run(run_id))
    assert said is not None and said["step"] == 4 and said["bytes"] > 10_000
    assert save_model(one.engine, third, run_id, tmp_path / "saved") == 4
    kept = two.folder(run_id) / "step-000004" / "model.safetensors"
    assert (tmp_path / "saved" / "model.safetensors").read_bytes() == kept.read_bytes()
    fetched = third.run(run_id).fetched / "step-000004.2"
    assert not (fetched / "optimizer.safetensors").exists()  # nobody needs it there
    payload = {"run": run_id, "checkpoint": 3}
    request = ModelRequest(payload, one.engine, third, ModelCache(third))
    assert requested_models(request, ProgressReporter(lambda *_: True)).step == 3
    alone.engine.dispose()
    one.engine.dispose()


@pytest.mark.parametrize("files", STORES[:1], indirect=True)
def test_another_hosts_run_is_a_model_and_stays_the_same_step(
    inputs: Path, tmp_path: Path, files: str
) -> None:
    one, two = two_hosts(tmp_path, inputs, files)
    teacher = one.queue(steps=1)
    one.attempt(teacher)
    run_id = two.queue(teacher=teacher, steps=2)
    assert two.attempt(run_id, dying(lambda e: isinstance(e, CheckpointEvent)))["attempt"] == 1
    assert one.attempt(run_id)["status"] == "finished"
    noted = one.directory.run(run_id).references
    assert noted.read_text() == f'{{"{teacher}": 1}}'
    one.engine.dispose()


@pytest.mark.parametrize("files", STORES[:1], indirect=True)
def test_without_the_address_a_run_is_refused_rather_than_begun_again(
    inputs: Path, tmp_path: Path, files: str
) -> None:
    one, _ = two_hosts(tmp_path, inputs, files)
    run_id = one.queue()
    one.attempt(run_id, dying(lambda e: isinstance(e, StepEvent) and e.step == 3))
    for other in (None, f"file://{tmp_path}/inputs"):
        shutil.copytree(inputs, tmp_path / "inputs", dirs_exist_ok=True)
        run = JobRunner(tmp_path / "two", inputs, one.engine, other).attempt(run_id)
        assert (run["status"], run["error_kind"]) == ("failed", "files")
        assert f"give --files {files} (or OPD_FILES)" in run["error_text"]
    assert run["step"] == 3
    one.engine.dispose()


@pytest.mark.parametrize("files", STORES[:1], indirect=True)
def test_a_file_that_was_changed_at_the_address_costs_one_checkpoint(
    inputs: Path, tmp_path: Path, files: str
) -> None:
    one, two = two_hosts(tmp_path, inputs, files)
    run_id = one.queue()
    one.attempt(run_id, dying(lambda e: isinstance(e, StepEvent) and e.step == 4))
    path = tmp_path / "team" / "runs" / run_id / "checkpoints" / "step-000003.1"
    content = bytearray((path / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "model.safetensors").write_bytes(content)
    assert two.attempt(run_id)["status"] == "finished"
    log = read_log(one, run_id)
    assert "step-000003.1/model.safetensors is missing or was changed since it was saved" in log
    assert "attempt 2, from step 2" in log
    one.engine.dispose()


@pytest.mark.engines
@pytest.mark.parametrize(
    ("after", "status", "cause"),
    [
        (4, 403, "access is denied"),
        (9, 507, "the store is full"),
        (17, 500, "InternalError"),
        (26, 0, "it does not answer"),
    ],
)
def test_a_store_that_fails_at_any_file_leaves_whole_checkpoints_only(
    inputs: Path, tmp_path: Path, bucket: ObjectStore, after: int, status: int, cause: str
) -> None:
    files = f"s3://{object_store.BUCKET}/team"
    one, two = two_hosts(tmp_path, inputs, files)
    run_id = one.queue()
    bucket.fail("PUT", after, status=status)
    run = one.attempt(run_id)
    assert (run["status"], run["error_kind"]) == ("failed", "files")
    assert cause in run["error_text"] and f"--files {files}" in run["error_text"]
    bucket.works()
    here, there = start_of(one.directory, run), start_of(two.directory, run)
    remote = [c["step"] for c in run["checkpoints"] if c["path"].startswith("s3://")]
    assert here[0] == run["checkpoints"][-1]["step"] == run["step"]  # what this host had saved
    assert there[0] == max(remote, default=-1) < here[0]
    run = one.attempt(run_id)
    assert run["status"] == "finished"
    assert f"attempt 2, from step {here[0]}" in one.log(run_id)
    there_now = run_files(two.directory).bring(run_id, run["checkpoints"][-1])
    assert (there_now / "trainer.json").is_file()
    one.engine.dispose()


@pytest.mark.engines
def test_kills_amid_an_upload_leave_a_latest_checkpoint_that_is_whole(
    tmp_path: Path, bucket: ObjectStore
) -> None:
    """Of a saver that is killed again and again, another host finds what was last on record."""
    chance, context = random.Random(0), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([checkpoint_saver.__name__, "s3fs", "pandas"])
    run_id, files = checkpoint_saver.new_run(tmp_path / "one"), f"s3://{object_store.BUCKET}/team"
    engine, two, amid = open_database(tmp_path / "one"), DataDir(tmp_path / "two", files=files), 0
    for _ in range(4):
        receiver, sender = context.Pipe(duplex=False)
        saver = context.Process(
            target=checkpoint_saver.main,
            args=(tmp_path / "one", files, run_id, sender, bucket.environment),
        )
        saver.start()
        sender.close()
        acknowledged = [receiver.recv(), receiver.recv()]
        time.sleep(chance.uniform(0, 0.2))
        saver.kill()
        saver.join()
        while receiver.poll():
            try:
                acknowledged.append(receiver.recv())
            except EOFError:
                break
        info = read_run(engine, run_id)
        step, folder = start_of(two, info)
        assert step >= acknowledged[-1]
        assert folder is None or checkpoint_saver.step_of(folder) == step
        recorded = {c["path"].rpartition("/")[2] for c in info["checkpoints"]}
        amid += bool(there(two, run_id) - recorded)
    assert amid  # some kills came between an upload's first file and its row
    receiver, sender = context.Pipe(duplex=False)
    last = context.Process(
        target=checkpoint_saver.main,
        args=(tmp_path / "one", files, run_id, sender, bucket.environment, 2),
    )
    last.start()
    last.join(60)
    assert last.exitcode == 0
    info = read_run(engine, run_id)
    assert there(two, run_id) == {c["path"].rpartition("/")[2] for c in info["checkpoints"]}
    engine.dispose()


def there(data_dir: DataDir, run_id: str) -> set[str]:
    """The folders of checkpoints at the address."""
    assert data_dir.files is not None
    sizes = address.FilesAddress(data_dir.files).sizes(f"runs/{run_id}/checkpoints")
    return {name.partition("/")[0] for name in sizes}


def test_an_address_that_cannot_be_used_is_told_before_a_run_is_made(
    opd: Any, tmp_path: Path
) -> None:
    code, out, err = opd("train", "demo", "--files", f"file://{tmp_path}/not-mounted")
    assert (code, out) == (2, "")
    assert f"--files file://{tmp_path}/not-mounted: cannot be written and read: there is no" in err
    assert "is its disk mounted?" in err and err.count("\n") == 1
    code, out, _ = opd("runs", "--json")
    assert code == 0 and '"total":0' in out.replace(" ", "")


@pytest.mark.engines
def test_what_is_wrong_with_a_bucket_is_named(
    bucket: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(files: str) -> str:
        run_files.cache_clear()
        with pytest.raises(UserError) as raised:
            run_files(DataDir(tmp_path, files=files)).check()
        assert raised.value.where == f"--files {files}" and raised.value.kind.exit_code == 2
        return raised.value.message

    files = f"s3://{object_store.BUCKET}/team"
    run_files(DataDir(tmp_path, files=files)).check()
    assert "there is no such bucket" in error("s3://no-such-bucket/team")
    bucket.fail("PUT", status=403)
    assert "access is denied" in error(files)
    bucket.fail("PUT", status=507)
    assert "the store is full" in error(files)
    bucket.fail("GET", status=403)
    assert "access is denied" in error(files)
    bucket.works()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "no credentials; give them as AWS_ACCESS_KEY_ID" in error(files)
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "it does not answer" in error(files)


def test_a_run_that_is_discarded_leaves_nothing_at_the_address(
    inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "team").mkdir()
    one, two = two_hosts(tmp_path, inputs, f"file://{tmp_path}/team")
    run_id = one.queue()

    def cancel(event: object) -> bool:
        if isinstance(event, StepEvent) and event.step == 3:
            jobs.request_cancel(one.engine, run_id, "discard")
            time.sleep(3)  # the heartbeat hears of it
        return False

    assert one.attempt(run_id, dying(cancel))["status"] == "cancelled"
    assert there(two.directory, run_id) == set() and one.run(run_id)["checkpoints"] == []
    one.engine.dispose()


@pytest.mark.parametrize("files", STORES[:1], indirect=True)
def test_an_upload_to_one_hosts_server_is_read_where_the_run_goes_on(
    inputs: Path, tmp_path: Path, files: str
) -> None:
    one, two = two_hosts(tmp_path, inputs, files)
    content = (inputs / "prompts.jsonl").read_bytes()
    with uploads.incoming(one.directory, "rows.jsonl", len(content)) as file:
        file.write(content)
        value = uploads.keep(one.directory, file)["value"]
    run_id = one.queue(prompts={"source": value})
    SystemUsageWriter(one.directory.run(run_id)).append(100.0, {"system/cpu": 0.5})
    died = dying(lambda e: isinstance(e, CheckpointEvent) and e.step == 2)
    assert one.attempt(run_id, died)["status"] == "failed"
    with pytest.raises(UserError, match="has not ended"):
        jobs.requeue(one.engine, run_id)
        uploads.delete(two.engine, two.directory, Path(value).name)
    shutil.rmtree(one.data_dir / "uploads")
    [seen] = uploads.listed(two.directory, Look("data"))["items"]
    assert (seen["file"], seen["bytes"]) == (Path(value).name, len(content))
    assert seen["value"] == str(
        two.directory.uploads / seen["file"]
    )  # as a run of its own names it
    assert two.attempt_queued(run_id)["status"] == "finished"
    assert [p.name for p in two.directory.uploads.iterdir()] == [Path(value).name]
    usage = run_files(one.directory).content(f"runs/{run_id}/system.jsonl")
    assert usage == two.directory.run(run_id).system_usage.read_bytes()
    assert usage_columns(usage)["columns"]["time"][0] == 100.0
    shutil.rmtree(two.directory.uploads)
    uploads.delete(two.engine, two.directory, Path(value).name)  # which it never held
    for host in (one, two):
        assert uploads.listed(host.directory, Look("data")) == {"items": [], "total": 0}
    one.engine.dispose()
