"""The doctor's dynamic part: every finding is provoked on models that are really loaded."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from opd.config.run import RunConfig, parse
from opd.data.prompts import load_prompts
from opd.doctor import dynamic as dynamic_checks
from opd.doctor.agreement import check_rehearsal
from opd.doctor.dynamic import dynamic
from opd.doctor.findings import Finding
from opd.doctor.rehearsal import Rehearsal, rehearse, stop_probabilities
from opd.errors import UserError
from opd.models.load import context_of
from opd.training.loading import Callbacks, LoadedRun, load
from tests.support.logprobs_server import LogprobsServer
from tests.support.tiny_models import save_model

pytestmark = pytest.mark.device

torch.set_num_threads(1)
EOS, UNK = 1, 2
Change = Callable[[LoadedRun], Any]


def rehearsal_of(config: RunConfig, change: Change = lambda _: None) -> Rehearsal:
    loaded = load(config, None, Callbacks())
    change(loaded)
    prompts = load_prompts(config, loaded.pair.tokenizer, context_of(loaded.pair.student))
    return rehearse(config, loaded, prompts.train[:6], Callbacks())


def codes(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {f.code: f for f in findings}


def rehearsed(change: Change = lambda _: None, **settings: Any) -> dict[str, Finding]:
    rehearsal = rehearsal_of(parse(settings), change)
    findings = codes(list(check_rehearsal(rehearsal)))
    rehearsal.loaded.close()
    return findings


def whole(config: RunConfig, callbacks: Callbacks | None = None) -> dict[str, Finding]:
    return codes(list(dynamic(config, callbacks or Callbacks())))


def bundled_with(folder: Path, name: str, *, eos: int, swap: bool = False) -> str:
    """A copy of a bundled model that names another end; `swap` makes it give that one as well."""
    shutil.copytree(str(resources.files("opd") / "bundled" / name), folder)
    for file in ("generation_config.json", "config.json"):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": eos}))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<unk>"}))
    if swap:
        weights = load_file(folder / "model.safetensors")
        table = weights["model.embed_tokens.weight"]
        table[[EOS, eos]] = table[[eos, EOS]].clone()
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_the_bundled_pair_is_in_order_and_timed() -> None:
    lines: list[str] = []
    findings = whole(parse({}), Callbacks(lines.append))
    assert {c for c, f in findings.items() if f.severity != "ok"} == {"reward", "time"}
    assert {"zero-kl", "sampler-gap", "cut-off", "stop-agrees", "first-token", "agreement"} < set(
        findings
    )
    assert findings["zero-kl"].evidence["largest"] < 1e-4
    assert findings["time"].evidence["flops_per_step"] > 1e9
    [stop] = findings["stop-agrees"].evidence["ids"]
    assert stop["id"] == "1 (<eos>)" and stop["student"] > 0.9 and stop["teacher"] > 0.9
    assert "the student answers 8 prompts" in lines
    json.dumps([f.as_dict() for f in findings.values()])


def test_what_is_measured_are_the_models_own_probabilities() -> None:
    rehearsal = rehearsal_of(parse({}))
    stops = stop_probabilities(rehearsal)
    assert stops is not None and stops.ids == (EOS,)
    for span, record in zip(stops.spans, rehearsal.records, strict=True):
        assert record.completion_ids[-1] == EOS
        assert record.student_logprobs is not None and record.teacher_logprobs is not None
        for mine, logprobs in (
            (stops.student, record.student_logprobs),
            (stops.teacher, record.teacher_logprobs),
        ):
            assert mine[span.stop - 1, 0] == pytest.approx(np.exp(logprobs[-1]), abs=1e-5)


def test_a_teacher_that_ends_with_another_id(tmp_path: Path) -> None:
    teacher = bundled_with(tmp_path / "t", "teacher", eos=UNK, swap=True)
    finding = rehearsed(teacher=teacher)["stop-disagrees"]
    assert finding.severity == "warning"
    assert "1 (<eos>)" in finding.text and "2 (<unk>)" in finding.text
    assert "2 (<unk>)" in finding.advice
    by_id = {e["id"]: e for e in finding.evidence["ids"]}
    assert by_id["1 (<eos>)"]["teacher"] < 1e-3 and by_id["1 (<eos>)"]["student"] > 0.5
    assert by_id["2 (<unk>)"]["teacher"] > 0.5
    assert "teacher.end_token: <unk>" in finding.advice and "does not help" in finding.advice
    mapped = rehearsed(teacher={"model": teacher, "end_token": "<unk>"})["stop-agrees"]
    by_id = {e["id"]: e for e in mapped.evidence["ids"]}
    assert mapped.severity == "ok" and by_id["1 (<eos>)"]["teacher"] > 0.5


def test_tokens_that_the_teacher_never_learnt_are_counted(tmp_path: Path) -> None:
    teacher = bundled_with(tmp_path / "t", "teacher", eos=EOS)
    path = Path(teacher) / "tokenizer.json"
    data = json.loads(path.read_text())
    think = data["model"]["vocab"].pop("<think>")
    path.write_text(json.dumps(data))
    finding = rehearsed(teacher=teacher, sampling={"max_new_tokens": 4})["unknown-tokens"]
    assert finding.severity == "warning" and "'<think>'" in finding.text
    assert finding.evidence == {"tokens": 6, "of": 24, "ids": [think]}


def test_a_student_that_cannot_stop_where_the_teacher_would(tmp_path: Path) -> None:
    """It writes the teacher's end and goes on: the answers run to the limit."""
    student = bundled_with(tmp_path / "s", "student", eos=UNK)
    findings = rehearsed(student=student)
    assert findings["stop-missing"].severity == "warning"
    assert "Add 1 (<eos>) to sampling.stop_ids" in findings["stop-missing"].advice
    assert findings["cut-off"].severity == "warning"


def test_answers_that_are_cut_off() -> None:
    findings = rehearsed(sampling={"max_new_tokens": 4})
    assert findings["cut-off"].severity == "warning" and findings["cut-off"].evidence["share"] == 1
    assert findings["stop-agrees"].severity == "info"


def test_a_long_limit_is_cut_here_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opd.doctor.rehearsal.LONGEST", 5)
    finding = rehearsed()["cut-off"]
    assert finding.severity == "info" and "the run allows 64" in finding.text


def test_a_model_that_draws_random_numbers_disagrees_with_itself() -> None:
    def noisy(loaded: LoadedRun) -> None:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
            return output + 0.1 * torch.randn_like(output)

        loaded.pair.student.get_decoder().norm.register_forward_hook(hook)

    findings = rehearsed(noisy)
    assert findings["zero-kl"].severity == "error"
    assert findings["zero-kl"].evidence["largest"] > 1e-3
    assert findings["sampler-gap"].severity == "warning"


def test_a_gap_between_sampler_and_trainer() -> None:
    rehearsal = rehearsal_of(parse({}))
    shifted = [
        replace(w, sample=replace(w.sample, sampler_logprobs=w.sample.sampler_logprobs - 1))
        for w in rehearsal.completions
    ]
    finding = codes(list(check_rehearsal(replace(rehearsal, completions=shifted))))["sampler-gap"]
    assert finding.severity == "warning"
    assert finding.evidence["mean"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("objective", "severity"), [("reverse_kl", "info"), ("grpo", "warning")])
def test_a_grader_that_finds_nothing_right(objective: str, severity: str) -> None:
    prompts = {"grader": "regex", "answer_pattern": "never"}
    finding = rehearsed(prompts=prompts, objective=objective)["reward"]
    assert finding.severity == severity and finding.evidence["score"] == 0
    assert len(finding.evidence["examples"]) == 2


def test_the_teachers_own_score_is_told() -> None:
    finding = rehearsed()["teacher-score"]
    assert finding.severity == "ok"
    assert finding.title == "The teacher itself gets 6 of 6 right"
    assert finding.evidence["teacher"] == 1.0


def test_a_teacher_that_gets_nothing_right_is_warned_of() -> None:
    def forget(loaded: LoadedRun) -> None:
        for weights in loaded.pair.teacher.parameters():
            weights.data.normal_(generator=torch.Generator(weights.device).manual_seed(0))

    findings = rehearsed(forget)
    assert findings["teacher-score"].severity == "warning"
    assert "cannot teach" in findings["teacher-score"].text


def test_a_teacher_that_is_not_to_be_evaluated_writes_nothing() -> None:
    assert "teacher-score" not in rehearsed(evaluation={"teacher": False})


def test_a_first_token_of_another_format() -> None:
    rehearsal = rehearsal_of(parse({}))
    records = []
    for record in rehearsal.records:
        assert record.reverse_kl is not None
        kl = record.reverse_kl.copy()
        kl[0] = 9
        records.append(replace(record, reverse_kl=kl))
    finding = codes(list(check_rehearsal(replace(rehearsal, records=records))))["first-token"]
    assert finding.severity == "warning" and finding.evidence["mean"] == 9
    assert "chat templates" in finding.advice


def test_a_privileged_teacher_may_begin_otherwise() -> None:
    findings = rehearsed(teacher={"kind": "self", "prompt": "{prompt} 1 2 3"})
    assert findings["first-token"].severity in ("ok", "info")


def test_models_that_are_far_apart(tmp_path: Path) -> None:
    folders = [save_model(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    findings = rehearsed(
        student=folders[0],
        teacher=folders[1],
        sampling={"max_new_tokens": 12},
    )["agreement"]
    assert findings.severity == "warning"
    assert findings.evidence["overlap"] < 0.25 or findings.evidence["ruled_out_share"] > 0.2


@pytest.mark.parametrize(("student", "ruled_out"), [(2e-5, 0.0), (0.1, 1.0)])
def test_only_tokens_that_were_likely_can_be_ruled_out(student: float, ruled_out: float) -> None:
    """From a vocabulary of 50,000, many sampled tokens are rare to the student itself."""
    rehearsal = rehearsal_of(parse({}))
    records = [
        replace(
            record,
            student_logprobs=np.full_like(record.student_logprobs, np.log(student)),
            teacher_logprobs=np.full_like(record.teacher_logprobs, np.log(1e-5)),
        )
        for record in rehearsal.records
    ]
    finding = codes(list(check_rehearsal(replace(rehearsal, records=records))))["agreement"]
    assert finding.evidence["ruled_out_share"] == ruled_out
    assert finding.severity == ("warning" if ruled_out else "ok")


def test_a_model_is_its_own_best_teacher() -> None:
    evidence = rehearsed(teacher="bundled/student")["agreement"].evidence
    assert evidence["overlap"] == 1
    assert evidence["teacher_on_student_tokens"] > 0.5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_with_its_own_start(dtype: str) -> None:
    student = {"model": "bundled/student", "dtype": dtype, "lora": {"rank": 2}}
    findings = rehearsed(student=student, teacher={"kind": "self"})
    assert findings["zero-kl"].severity == "ok"
    assert findings["sampler-gap"].severity == "ok"
    assert findings["agreement"].evidence["overlap"] > 0.99


def test_routes_each_have_their_teacher(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines = [{"prompt": f"Ann has {n} 1", "topic": "ab"[n % 2]} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, lines)))
    teacher = {"route_by": "topic", "routes": {"a": {"kind": "self"}}}
    findings = rehearsed(teacher=teacher, prompts=str(path), sampling={"max_new_tokens": 16})
    assert findings["zero-kl"].severity == "ok"
    assert {"agreement", "first-token"} < set(findings)


def test_without_a_teacher_there_is_nothing_to_compare() -> None:
    findings = rehearsed(objective="grpo", teacher={"kind": "none"})
    assert set(findings) == {"zero-kl", "sampler-gap", "cut-off", "reward"}


def test_what_loading_refuses_is_a_finding(tmp_path: Path) -> None:
    unreachable = {"kind": "remote", "url": "http://127.0.0.1:9/v1", "model": "m", "retries": 0}
    findings = whole(parse({"teacher": unreachable, "objective": "policy_gradient"}))
    assert list(findings) == ["models-refused"]
    assert findings["models-refused"].severity == "error"


def test_a_server_is_compared_by_what_it_gives(tmp_path: Path) -> None:
    folders = [save_model(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    with LogprobsServer(Path(folders[1])) as server:
        teacher = {"kind": "remote", "url": server.url, "model": server.name, "top_k": 8}
        findings = rehearsed(
            student=folders[0],
            teacher=teacher,
            objective="policy_gradient",
            sampling={"max_new_tokens": 8},
        )
    assert findings["agreement"].evidence["tokens"] > 0
    assert "first-token" not in findings, "it gives no whole distribution"


@pytest.mark.parametrize("where", ["load", "rehearse"])
def test_a_lack_of_memory_is_a_finding(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(dynamic_checks, where, fail)
    findings = whole(parse({}))
    assert findings["out-of-memory"].severity == "error"


def test_an_error_on_the_way_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise UserError("has no field 'x'", where="teacher.prompt")

    monkeypatch.setattr(dynamic_checks, "rehearse", fail)
    assert whole(parse({}))["rehearsal-refused"].text == "teacher.prompt: has no field 'x'"


def test_it_stops_when_nobody_asks_any_more() -> None:
    assert whole(parse({}), Callbacks(stop=lambda: True)) == {}


def test_a_graphics_card_is_measured_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dynamic_checks, "free_memory", lambda device: (1e6, 24e9))
    assert whole(parse({}))["memory-device"].severity == "error"
