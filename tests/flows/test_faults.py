"""What goes wrong is named on the run's row, with what to change; its records stay readable."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.worker import job, process
from opd.errors import ErrorKind
from opd.grading import graders
from opd.grading.extraction import Extraction
from opd.training.trainer import Training
from opd.types import PhaseEvent, StepEvent
from storage import locks
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.export import export_rows
from tests.support.devices.fake_gpus import FakeCuda
from tests.support.in_process_runs import JobRunner, write_rows
from tests.support.logprobs_server import LogprobsServer, edited
from tests.support.tiny_models import save_pair

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture
def runner(inputs, tmp_path):
    made = JobRunner(tmp_path / "data", inputs)
    yield made
    made.engine.dispose()


def failed(runner, run_id, kind, *texts, training=None):
    """Runs it; the row must name the failure. Returns how many rollouts can be read."""
    run = runner.attempt(run_id, training)
    assert (run["status"], run["error_kind"]) == ("failed", kind), run["error_text"]
    for text in texts:
        assert text in run["error_text"]
    assert run["hint"] == ErrorKind(kind).hint
    return sum(1 for _ in export_rows(runner.engine, run_id, pytest.fail))


def kept(runner, run_id):
    return [r["step"] for r in export_rows(runner.engine, run_id, pytest.fail)]


def test_a_loss_that_is_no_number(runner, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in (runner.inputs / "teacher").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run_id = runner.queue(teacher=str(broken))
    failed(runner, run_id, "nan loss", "teacher: its log-probabilities are NaN", "")
    unseen = {"evaluation": {"prompts": 4, "keep": 2, "teacher": False}}
    run_id = runner.queue(teacher=str(broken), **unseen)
    failed(runner, run_id, "nan loss", "optimizer: the loss is nan", "optimizer.learning_rate")
    assert runner.at_rest(run_id) == []


def test_a_teachers_server_that_scores_too_few_tokens(runner):
    """Two steps are fine; then the answers are short by a token."""
    with LogprobsServer(runner.inputs / "teacher") as server:
        teacher = {"kind": "remote", "url": server.url, "model": server.name, "retries": 0}
        run_id = runner.queue(teacher=teacher, objective={"name": "teacher_top_k", "top_k": 5})

        class Failing(Training):
            def events(self):
                for event in super().events():
                    yield event
                    if isinstance(event, StepEvent) and event.step == 2:
                        server.faults.edit = edited(lambda entries: entries[:-1])

        count = failed(
            runner, run_id, "teacher server", "teacher.url: ", "and was sent", training=Failing
        )
        assert count == 1 + 2 * 4  # an evaluated one, and two steps
        assert runner.at_rest(run_id) == [1, 2]
        server.reset()
        assert runner.attempt(run_id)["status"] == "finished"


def test_a_teachers_server_that_is_not_there(runner):
    teacher = {"kind": "remote", "url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0}
    run_id = runner.queue(teacher=teacher, objective="policy_gradient")
    failed(runner, run_id, "teacher server", "teacher.url: ")


def test_an_empty_completion_in_the_data(runner, tmp_path):
    rows = [{"prompt": f"q {i}", "completion": "" if i == 7 else "so"} for i in range(20)]
    data = write_rows(tmp_path / "given.jsonl", rows)
    run_id = runner.queue(
        prompts={"source": data, "eval_source": str(runner.inputs / "prompts.jsonl")},
        teacher={"kind": "none"},
        objective="sft",
        sampling={"source": "given"},
    )
    failed(runner, run_id, "bad data", "given.jsonl:8: ", "no completion")


def test_a_prompt_longer_than_the_context(runner, tmp_path):
    rows = [{"prompt": "word " * (40_000 if i == 3 else 1)} for i in range(10)]
    run_id = runner.queue(prompts=write_rows(tmp_path / "long.jsonl", rows))
    failed(runner, run_id, "bad data", "long.jsonl:4: ", "tokens", "prompts.overlong")


def test_a_data_set_without_the_mapped_column(runner, tmp_path):
    source = str(runner.inputs / "prompts.jsonl")
    run_id = runner.queue(prompts={"source": source, "columns": {"prompt": "question"}})
    failed(
        runner, run_id, "bad data", "question is missing (the row has prompt, answer, completion)"
    )
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"prompt": ["a", "b"], "answer": ["1", "2"]})
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "rows.parquet")
    run_id = runner.queue(
        prompts={"source": str(tmp_path / "rows.parquet"), "columns": {"prompt": "question"}}
    )
    failed(runner, run_id, "bad data", "prompts.columns.prompt: ", "it has prompt, answer")


def test_a_file_that_is_gone_when_the_job_begins(runner, tmp_path):
    run_id = runner.queue(prompts=str(tmp_path / "gone.jsonl"))
    failed(runner, run_id, "bad data", "gone.jsonl")


def test_a_grader_that_raises(runner, monkeypatch):
    """From the third step on; what was stored before can be read."""
    steps = []

    def judge(*_):
        if len(steps) >= 2:
            raise ZeroDivisionError("by zero")
        return Extraction(None)

    class Counting(Training):
        def events(self):
            for event in super().events():
                yield event
                if isinstance(event, StepEvent):
                    steps.append(event.step)

    monkeypatch.setattr(graders, "extract", judge)
    prompts = {"source": str(runner.inputs / "prompts.jsonl"), "grader": "numeric"}
    run_id = runner.queue(prompts=prompts)
    count = failed(
        runner,
        run_id,
        "grader failed",
        "prompts.grader: the grader numeric failed (ZeroDivisionError: by zero)",
        training=Counting,
    )
    assert count == 1 + 2 * 4
    assert set(kept(runner, run_id)) == {0, 1, 2}


def test_a_tokenizer_that_is_another(runner, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    for file in (runner.inputs / "teacher").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    failed(
        runner,
        runner.queue(teacher=str(folder)),
        "tokenizer mismatch",
        "teacher.model: ",
        "2 of 310",
    )


def test_memory_that_runs_out_on_the_host(runner):
    """A process of its own whose address space ends shortly above what loading took."""
    run_id = runner.queue(
        student={"model": "bundled/student"},
        teacher="bundled/teacher",
        prompts="bundled",
        sampling={"prompts_per_step": 64, "group_size": 4, "max_new_tokens": 32},
        optimizer={"micro_batch_tokens": 1_000_000},
        evaluation={"prompts": 1},
    )
    code = (
        "import resource, sys\n"
        "from app.worker import job\n"
        "from opd.training.trainer import Training\n"
        "class Limited(Training):\n"
        "    def _one_step(self, *a):\n"
        "        pages = int(open('/proc/self/statm').read().split()[0])\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**26,) * 2)\n"
        "        return super()._one_step(*a)\n"
        "sys.exit(job.main(sys.argv[1:], Limited))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run_id, "--data-dir", str(runner.data_dir)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    run = runner.run(run_id)
    assert (run["status"], run["error_kind"]) == ("failed", "out of memory"), done.stderr[-3000:]
    assert "micro_batch_tokens" in run["hint"]
    assert set(kept(runner, run_id)) == {0}


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 1 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate"),
    ],
)
def test_memory_that_runs_out_amid_a_step(runner, error):
    class Full(Training):
        def _one_step(self, *arguments):
            if self._step == 2:
                raise error
            return super()._one_step(*arguments)

    run_id = runner.queue()
    count = failed(runner, run_id, "out of memory", type(error).__name__, training=Full)
    assert count == 1 + 2 * 4
    assert runner.at_rest(run_id) == [1, 2]
    assert runner.attempt(run_id)["status"] == "finished"


def test_a_run_that_no_gpu_here_can_do_is_refused_before_loading(runner, monkeypatch):
    """Another program fills the GPU; there is one only; it has no bfloat16."""
    monkeypatch.setattr("opd.training.trainer.load", lambda *_: pytest.fail("was loaded"))
    monkeypatch.setattr("opd.doctor.machine.device.PATIENCE", 0.0)
    FakeCuda(free=1e5).install(monkeypatch)
    failed(runner, runner.queue(device="cuda:0"), "out of memory", "device: ", "100.0 kB free")
    failed(runner, runner.queue(device="cuda:3"), "bad input", "device: cuda:3", "use cuda:0")
    FakeCuda(bfloat16=False).install(monkeypatch)
    run_id = runner.queue(device="cuda:0", student={"dtype": "bfloat16"})
    failed(runner, run_id, "bad input", "student.dtype: Tesla T4", "float32")


def test_a_run_waits_until_a_request_s_models_have_left_its_gpu(runner):
    """The lock stands for what answers on the GPU; the processor, for the GPU itself."""
    path = DataDir(runner.data_dir).device_lock("cuda:0")
    path.parent.mkdir()
    held = locks.take(path)
    leaving = threading.Timer(0.5, held.close)
    leaving.start()
    run_id = runner.queue(steps=1)
    claimed = job.claim(runner.engine, DataDir(runner.data_dir), run_id, "cuda:0")
    os.environ.pop(process.MARK)
    said = []
    outcome = job.run(claimed, watch=lambda event: said.append((event, held.closed)))
    assert outcome.status == "finished"
    assert said[0] == (PhaseEvent("waiting for cuda:0, where models answer a request"), False)
    assert all(closed for _, closed in said[1:])


def test_a_gpu_that_cannot_be_used_is_in_the_log(runner, monkeypatch):
    FakeCuda(count=0, broken="the driver is gone").install(monkeypatch)
    monkeypatch.setattr("opd.devices.choice.gpu_count", lambda: 1)
    run_id = runner.queue(device="auto", steps=1)
    assert runner.attempt(run_id)["status"] == "finished"
    (line,) = [x for x in runner.log(run_id).splitlines() if "the driver is gone" in x]
    assert "WARNING" in line and "the processor is used" in line


@pytest.mark.parametrize("field", ["teacher", "optimizer"])
def test_an_extra_that_is_not_installed(runner, monkeypatch, field):
    for module in ("models.folders.quantized", "training.optimization.optimizers"):
        monkeypatch.setattr(f"opd.{module}.find_spec", lambda _: None)
    changes = {
        "teacher": {"model": str(runner.inputs / "teacher"), "quantize": "int4"},
        "optimizer": {"name": "adamw_8bit"},
    }
    run_id = runner.queue(**{field: changes[field]})
    failed(runner, run_id, "missing extra", f"{field}.", "pip install 'opd-studio[quantized]'")


@pytest.mark.parametrize("changes", [{"teacher": "/x/y"}, {"student": {"model": "/x/y"}}])
def test_a_model_that_is_not_there(runner, changes):
    failed(
        runner, runner.queue(**changes), "missing model", f"{next(iter(changes))}.model: ", "/x/y"
    )


def test_a_failed_run_is_told_by_the_job_itself(runner):
    """Before its process ends, and with nobody there who looks for dead ones."""
    run = runner.attempt(runner.queue(teacher="/x/y"))
    assert run["status"] == "failed" and run["finished_at"] >= run["started_at"]
    assert run["id"] not in {r["id"] for r in jobs.running(runner.engine)}


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"megatron_config": {"x": 1}}, "refused model", "megatron_config"),
        (None, "missing model", "has no adapter_model.safetensors"),
    ],
)
def test_an_adapters_folder_that_brings_code_or_no_weights(runner, tmp_path, change, kind, text):
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(runner.inputs / "student")}
    (folder / "adapter_config.json").write_text(json.dumps(settings | (change or {})))
    if change is not None:
        save_file({"w": torch.zeros(1)}, folder / "adapter_model.safetensors")
    failed(runner, runner.queue(teacher=str(folder)), kind, "teacher.model: ", text)
