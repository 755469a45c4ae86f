"""Every part runs in its smallest form on the processor."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bench.gpu import __main__ as command
from bench.gpu import memory, resume, whole_steps
from bench.gpu.parts import figures_of
from bench.gpu.workbench import Workbench, tokenizer
from opd.models import compilation
from tests.support.tiny_models import TEXTS

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
NEEDED = ("bench/steps.py", "bench/support/endless.py", "bench/support/generation.py")


@pytest.fixture(scope="module")
def bench_gpu(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench(CPU, small=True, folder=tmp_path_factory.mktemp("models"))


def figures(bench: Workbench, part: str) -> dict[str, dict]:
    return {line.name: dict(line.values) for line in figures_of(part, bench)}


def test_the_table_has_phases_and_rates(bench_gpu):
    lines = figures(bench_gpu, "table")
    assert set(lines) == {"all weights", "LoRA"}
    for values in lines.values():
        assert values["step s"]["n"] == 3
        assert values["step s"]["median"] > sum(values[f"{p} s"] for p in ("sample", "student")) / 2
        assert values["sampling tokens/s"]["median"] > values["tokens/s"]["median"] > 0
        assert values["peak GiB"] is None and "plan GiB" not in values  # micro-batches vary
        assert 0 <= values["sampler gap"] < 1e-4


def test_trl_s_precisions_are_measured_with_its_checkpointing(bench_gpu, monkeypatch):
    settings = []
    monkeypatch.setattr(whole_steps, "whole_steps", lambda _, config: settings.append(config) or {})
    monkeypatch.setattr(Workbench, "dtype", "bfloat16")
    lines = figures(bench_gpu, "as-trl")
    assert len(lines) == 2
    assert [c.student.weights for c in settings] == ["bfloat16", "float32"]
    assert all(c.student.gradient_checkpointing for c in settings)


def test_generate_writes_the_same_work(bench_gpu):
    (values,) = figures(bench_gpu, "generate").values()
    assert values["sampling tokens/s"]["n"] == 3


@pytest.mark.parametrize("part", ["trl", "trl-mixed"])
@pytest.mark.filterwarnings("default")  # theirs
def test_trl_is_measured_or_skipped_by_name(bench_gpu, part):
    (values,) = figures(bench_gpu, part).values()
    assert "step s" in values if find_spec("trl") else "trl" in values["skipped"]


@pytest.mark.parametrize("part", ["shares", "shares-compiled"])
def test_shares_are_of_a_measured_peak(bench_gpu, monkeypatch, part):
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")  # no machine code is made
    lines = figures(bench_gpu, part)
    peak = lines["bfloat16 product"]["TFLOP/s"] * 1e12
    for name in ("teacher's forward", "student's forward and backward"):
        share, seconds = lines[name]["share of the peak"], lines[name]["s"]
        assert 0 < share["low"] <= share["high"]
        assert share["high"] * peak * seconds["low"] > 1e5  # FLOPs of the tiny models
    assert lines["update"]["start s"] > 0


def test_decoding_is_measured_by_rows_and_length(bench_gpu):
    lines = figures(bench_gpu, "decode")
    assert lines["copy"]["GB/s"] > 0
    assert len(lines) == 3 and "3 rows, 8 tokens before" in lines
    assert all(line["limit ms"] > 0 for name, line in lines.items() if name != "copy")


def test_float32_records_are_those_of_float64_and_bfloat16_ones_near(bench_gpu):
    lines = figures(bench_gpu, "records")
    for column in ("sampler_logprobs", "student_logprobs", "teacher_logprobs", "reverse_kl"):
        assert lines[f"float32 {column}"]["largest"] < 1e-5
        assert 1e-5 < lines[f"bfloat16 {column}"]["largest"] < 0.1
    assert lines["float32 teacher_rank"]["the same"] == 1


def test_memory_is_measured_beside_its_plan(bench_gpu, monkeypatch):
    chosen = {name: memory.SETTINGS[name] for name in ("all weights", "teacher.offload")}
    with monkeypatch.context() as patch:
        patch.setattr(Workbench, "dtype", "bfloat16")
        plans = {
            name: bench_gpu.plan(bench_gpu.config(memory.WORK, **changes))
            for name, changes in memory.SETTINGS.items()
        }
    assert plans["LoRA"] < plans["all weights"] > plans["optimizer adamw_8bit"]
    monkeypatch.setattr(memory, "SETTINGS", chosen)
    lines = figures(bench_gpu, "memory")
    assert lines.keys() == chosen.keys()
    assert all(line["plan GiB"] > 0 and line["step s"]["n"] == 1 for line in lines.values())


def test_a_missing_extra_skips_its_line(bench_gpu, monkeypatch):
    chosen = {name: memory.SETTINGS[name] for name in ("optimizer adamw_8bit",)}
    monkeypatch.setattr(memory, "SETTINGS", chosen)
    monkeypatch.setattr("opd.training.optimization.optimizers.find_spec", lambda name: None)
    (line,) = figures(bench_gpu, "memory").values()
    assert "needs bitsandbytes" in line["skipped"]


def test_a_killed_run_ends_as_the_one_left_alone(bench_gpu, monkeypatch):
    monkeypatch.setattr(resume, "CASES", {"all weights": resume.CASES["all weights"]})
    (line,) = figures(bench_gpu, "resume").values()
    assert line["steps resumed"] == resume.STEPS - resume.KILLED_AFTER
    assert line["largest difference of a loss"] == line["largest difference of a weight"] == 0


def test_lines_are_printed_and_appended(bench, bench_gpu, tmp_path):
    out = tmp_path / "figures.jsonl"
    out.write_text('{"part": "earlier"}\n')
    text = bench(
        "gpu.__main__",
        *("--part", "generate", "--device", "cpu"),
        *("--out", str(out), "--models", str(bench_gpu.folder)),
    )
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["part"] for line in lines] == ["earlier", "generate"]
    assert lines[1]["small"] and lines[1]["torch"] == torch.__version__
    assert "generate, bfloat16" in text and "n=3" in text


def test_a_part_that_fails_or_hangs_does_not_keep_the_others(monkeypatch, tmp_path, capsys):
    codes = {"table": 1, "trl": None}

    def run(line, *, check, timeout):
        code = codes.get(line[line.index("--part") + 1], 0)
        if code is None:
            raise subprocess.TimeoutExpired(line, timeout)
        return subprocess.CompletedProcess(line, code)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--device", "cpu"])
    assert command.main() == 1
    out = capsys.readouterr().out
    assert "failed: table, trl" in out and "trl: stopped after" in out


def test_a_device_that_is_not_there_is_named_once(monkeypatch, capsys):
    def run(line, **_):
        monkeypatch.setattr(sys, "argv", line[2:])
        parts.append(line[line.index("--part") + 1])
        return subprocess.CompletedProcess(line, command.main())

    parts = []
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--device", "cuda:97"])
    assert command.main() == command.UNUSABLE and parts == ["table"]
    assert "Error: device: cuda:97" in capsys.readouterr().err


def test_the_tokenizer_has_an_id_a_byte_and_fills_the_vocabulary():
    made = tokenizer(600)
    assert len(made) == 600
    for text in TEXTS:
        ids = made(text)["input_ids"]
        assert len(ids) == len(text.encode()) and made.decode(ids) == text


def test_the_parts_need_neither_database_nor_server():
    """A machine that has a GPU may have little else; `opd` imports neither of the two."""
    paths = [*(ROOT / "bench/gpu").glob("*.py"), *map(ROOT.joinpath, NEEDED)]
    texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
    imported = {n: re.findall(r"^ *(?:from|import) (\w+)", t, re.M) for n, t in texts.items()}
    assert [n for n, tops in imported.items() if {"app", "storage"} & {*tops}] == []
    ours = {m for t in texts.values() for m in re.findall(r"^from (bench\.\w[\w.]*) ", t, re.M)}
    assert {m.replace(".", "/") + ".py" for m in ours if "gpu" not in m} == {*NEEDED}
