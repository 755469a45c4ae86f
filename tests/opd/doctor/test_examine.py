"""The doctor's static part: every finding is provoked on tiny models, without a network."""

import json
import socket
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opd.config.run import parse
from opd.config.wording import size
from opd.devices.gpus import DriverReport
from opd.doctor import settings as settings_checks
from opd.doctor.examine import examine, report, static
from opd.doctor.findings import SEVERITIES, Finding, healthy, quoted, worst_first
from opd.doctor.machine import fit as machine
from opd.doctor.machine.device import device_type
from opd.doctor.machine.fit import check_gpu
from opd.doctor.memory_parts import Estimate, MemoryPart
from opd.doctor.models import LocalModel, check_class, look_up
from opd.models.tried import tried_models
from opd.training.loading import Callbacks
from tests.support.devices.fake_gpus import FakeCuda
from tests.support.tiny_models import save_model, tokenizer

pytestmark = pytest.mark.device

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<no-think>{% endif %}<assistant>"
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks for the network fails the test."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the static part used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def look(**settings: Any) -> dict[str, Finding]:
    """The static findings by code; the worst where there are several of one code."""
    findings = worst_first(static(parse(settings), lambda _: None))
    return {f.code: f for f in reversed(findings)}


def chat_folder(folder: Path, template: str | None = TEMPLATE, **options: Any) -> str:
    name = save_model(folder, **options)
    made = tokenizer()
    made.chat_template = template
    made.save_pretrained(folder)
    return name


def rows(path: Path, *items: dict[str, Any]) -> str:
    path.write_text("\n".join(json.dumps(item) for item in items))
    return str(path)


def test_the_bundled_pair_is_in_order() -> None:
    findings = look()
    on_processor = device_type(parse({})) == "cpu"
    memory = findings.pop("memory" if on_processor else "memory-device")
    assert memory.severity == "ok" or not on_processor  # a GPU's driver may be mute
    assert set(findings) == {"model-class", "tokenizer-same", "stops-same", "prompts-fit"}
    assert {f.severity for f in findings.values()} == {"ok"}
    assert findings["prompts-fit"].evidence["longest"] < 64


@pytest.mark.parametrize(
    ("code", "severity", "settings"),
    [
        ("learning-rate", "warning", {"optimizer": {"learning_rate": 0.1}}),
        (
            "learning-rate",
            "warning",
            {"student": {"lora": {}}, "optimizer": {"learning_rate": 0.01}},
        ),
        (
            "learning-rate",
            "warning",
            {"student": {"lora": {}}, "optimizer": {"learning_rate": 1e-7}},
        ),
        ("learning-rate", "warning", {"student": "Qwen/Qwen3-8B", "teacher": "Qwen/Qwen3-8B"}),
        ("warmup", "warning", {"steps": 5, "optimizer": {"warmup_steps": 5}}),
        ("temperature", "warning", {"sampling": {"temperature": 0.1}}),
        ("group-size", "warning", {"objective": "grpo", "sampling": {"group_size": 2}}),
        ("sft-on-own-samples", "warning", {"objective": "sft", "sampling": {"source": "student"}}),
        ("nothing-to-learn", "warning", {"teacher": {"kind": "self"}}),
        ("nothing-to-learn", "warning", {"student": "bundled/teacher"}),
        ("few-evaluation-prompts", "info", {"evaluation": {"prompts": 10}}),
        ("not-downloaded", "info", {"teacher": "nobody/has-this"}),
        ("memory-unknown", "info", {"teacher": "nobody/has-this"}),
        ("model-of-a-run", "info", {"student": "run-abcdefgh"}),
        ("data-not-read", "info", {"prompts": "openai/gsm8k"}),
        ("model-refused", "error", {"teacher": "/no/such/folder"}),
        ("memory-refused", "error", {"teacher": "/no/such/folder"}),
        ("prompts-refused", "error", {"sampling": {"max_new_tokens": 510}}),
        ("prompts-refused", "error", {"prompts": "/no/such/file.jsonl"}),
        (
            "memory",
            "error",
            {
                "device": "cpu",
                "sampling": {"batch_size": 4096, "max_new_tokens": 400, "prompts_per_step": 4096},
                "student": "Qwen/Qwen3-8B",
            },
        ),
    ],
)
def test_what_seldom_does_what_is_wanted(
    code: str, severity: str, settings: dict[str, Any]
) -> None:
    finding = look(**settings)[code]
    assert finding.severity == severity
    assert finding.title and finding.text
    assert finding.advice or severity == "info" or "refused" in code
    json.dumps(finding.as_dict())


def test_a_privileged_self_teacher_has_something_to_teach() -> None:
    findings = look(teacher={"kind": "self", "prompt": "{prompt} ( {answer} )"})
    assert "nothing-to-learn" not in findings
    assert findings["teacher-prompt"].severity == "ok"


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        ("bitsandbytes", {"teacher": {"quantize": "int4"}}),
        ("bitsandbytes", {"optimizer": {"name": "adamw_8bit"}}),
        ("lm_eval", {"evaluation": {"lm_eval": ["gsm8k"]}}),
        ("math_verify", {"prompts": {"grader": "math"}}),
    ],
)
def test_missing_extras_are_named_with_the_command(
    module: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    assert "missing-extra" not in look(**settings)
    monkeypatch.setattr(settings_checks, "find_spec", lambda name: None)
    finding = look(**settings)["missing-extra"]
    assert finding.severity == "error" and "pip install" in finding.advice
    assert finding.evidence["module"] == module


def test_swapped_strings_of_two_ids_are_an_error(tmp_path: Path) -> None:
    student, teacher = save_model(tmp_path / "s"), save_model(tmp_path / "t")
    path = Path(teacher) / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    a, b = (next(t for t, i in vocabulary.items() if i == n) for n in (40, 41))
    vocabulary[a], vocabulary[b] = 41, 40
    path.write_text(json.dumps(data))
    finding = look(student=student, teacher=teacher)["tokenizer-differs"]
    assert finding.severity == "error"
    assert finding.evidence["different"] == 2
    assert finding.evidence["examples"][0] == {"id": 40, "student": a, "teacher": b}


def test_a_class_is_said_to_work_by_its_configuration(tmp_path: Path) -> None:
    folder = Path(save_model(tmp_path / "student"))
    (finding,) = check_class(local(folder))
    assert finding.severity == "ok" and finding.title == "student: qwen3 (dense) works"
    newer = {"model_type": "qwen9", "layer_types": ["sliding_attention"], "num_experts": 8}
    (finding,) = check_class(replace(local(folder), settings=newer))
    assert finding.severity == "info"
    assert finding.title == "student: qwen9 (sliding window, mixture of experts) was not tried"
    assert tried_models().transformers in finding.text


def local(folder: Path) -> LocalModel:
    student = look_up(parse({"student": str(folder), "teacher": {"kind": "self"}})).student
    assert student is not None
    return student


def test_padded_vocabularies_are_cut(tmp_path: Path) -> None:
    student = save_model(tmp_path / "s", vocab=310)
    teacher = save_model(tmp_path / "t", vocab=330)
    finding = look(student=student, teacher=teacher)["vocabulary-sliced"]
    assert finding.evidence == {"student": 310, "teacher": 330, "shared": 310}


@pytest.mark.parametrize(("theirs", "severity"), [([5], "info"), ([0, 5], "info"), ([0], "ok")])
def test_stop_ids_of_both_are_compared(tmp_path: Path, theirs: list[int], severity: str) -> None:
    student = save_model(tmp_path / "s", eos=[0])
    teacher = save_model(tmp_path / "t", eos=theirs)
    findings = look(student=student, teacher=teacher)
    code = "stops-same" if severity == "ok" else "stops-differ"
    assert findings[code].severity == severity
    assert findings[code].evidence["student"] == ["0 (<eos>)"]


def test_a_teacher_with_another_end_is_a_warning(tmp_path: Path) -> None:
    """As a base student and a chat teacher: neither's generation settings name the other's id."""
    student, teacher = save_model(tmp_path / "s", eos=[0]), save_model(tmp_path / "t", eos=[1])
    path = Path(teacher) / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token": "<pad>"}))
    finding = look(student=student, teacher=teacher)["stops-differ"]
    assert finding.severity == "warning"
    assert finding.evidence == {"student": ["0 (<eos>)"], "teacher": ["1 (<pad>)"]}
    assert "1 (<pad>)" in finding.text and "sampling.stop_ids" in finding.advice


def with_tokens(folder: str, *texts: str) -> str:
    made = tokenizer()
    made.add_tokens(list(texts))
    made.save_pretrained(folder)
    return folder


def test_a_model_without_its_weights_in_the_hubs_cache_is_compared_and_not_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(save_model(tmp_path / "cached"))
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(
        "opd.models.architecture.try_to_load_from_cache", lambda _, name: str(folder / name)
    )
    findings = look(student=save_model(tmp_path / "s"), teacher="some/model")
    assert findings["not-downloaded"].title == "some/model is not downloaded yet"
    assert findings["tokenizer-same"].severity == "ok" and "model-refused" not in findings
    (folder / "pytorch_model.bin").touch()
    findings = look(student=str(tmp_path / "s"), teacher="some/model")
    assert "pickled" in findings["model-refused"].text


def test_tokens_of_one_side_are_an_information(tmp_path: Path) -> None:
    student = with_tokens(save_model(tmp_path / "s"), "<think>", "</think>")
    findings = look(student=student, teacher=save_model(tmp_path / "t"))
    assert findings["tokenizer-one-sided"].severity == "info"
    assert "2 only the student has ('<think>', '</think>')" in findings["tokenizer-one-sided"].text
    assert "tokenizer-differs" not in findings and findings["tokenizer-same"].severity == "ok"


def test_tokens_without_a_row_are_found_where_a_prompt_has_them(tmp_path: Path) -> None:
    count = len(tokenizer())
    model = with_tokens(save_model(tmp_path / "m", vocab=count), "<tool>")
    source = {"source": rows(tmp_path / "p.jsonl", *[{"prompt": f"{n} + 1"} for n in range(4)])}
    findings = look(student=model, teacher=model, prompts=source)
    assert findings["ids-without-rows"].severity == "warning"
    assert findings["ids-without-rows"].evidence == {"rows": count, "ids": 1, "first": count}
    source = {"source": rows(tmp_path / "p.jsonl", *[{"prompt": f"<tool>{n}"} for n in range(4)])}
    refusal = look(student=model, teacher=model, prompts=source)["prompts-refused"]
    assert "p.jsonl:" in refusal.text and f"'<tool>' has id {count}" in refusal.text


def test_a_teacher_of_shorter_context_is_found(tmp_path: Path) -> None:
    student = save_model(tmp_path / "s", vocab=310)
    teacher = save_model(tmp_path / "t", "gpt2", vocab=310)
    source = {"source": rows(tmp_path / "p.jsonl", *[{"prompt": "x" * 200}] * 4)}
    settings: dict[str, Any] = {"prompts": source, "sampling": {"max_new_tokens": 100}}
    finding = look(student=student, teacher=teacher, **settings)["prompts-refused"]
    assert "the prompt has 200 tokens; the models' context leaves room for 156" in finding.text
    assert "prompts-refused" not in look(student=student, teacher=student, **settings)
    hinted = {"model": teacher, "prompt": "{prompt} 1"}
    finding = look(student=student, teacher=hinted, **settings)["teacher-prompt-long"]
    assert finding.severity == "error" and "context of 256" in finding.text


def test_a_student_without_any_end_is_an_error(tmp_path: Path) -> None:
    student = save_model(tmp_path / "s")
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        path = Path(student) / name
        data = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in data.items() if "eos" not in k}))
    assert look(student=student, teacher=student)["no-stop"].severity == "error"
    assert look(student=student, teacher={"kind": "self"})["no-stop"].severity == "error"
    assert "no-stop" not in look(student=student, teacher=student, sampling={"stop_ids": [7]})


def test_chat_templates_are_rendered_and_compared(tmp_path: Path) -> None:
    student = chat_folder(tmp_path / "s")
    same, other = chat_folder(tmp_path / "t"), chat_folder(tmp_path / "o", "{{ messages }}:")
    prompts = {"source": rows(tmp_path / "p.jsonl", *[{"prompt": f"{n}?"} for n in range(4)])}
    chat = {**prompts, "chat": True, "system": "Be brief."}
    findings = look(student=student, teacher=same, prompts=chat)
    assert findings["chat-template-same"].evidence["text"].startswith("<system>Be brief.<user>")
    findings = look(student=student, teacher=other, prompts=chat)
    assert findings["chat-template-differs"].severity == "warning"
    assert findings["chat-template-differs"].evidence["teacher"].endswith(":")
    bare = save_model(tmp_path / "b")
    assert look(student=student, teacher=bare, prompts=chat)["no-chat-template"].severity == (
        "warning"
    )
    assert look(student=bare, teacher=same, prompts=chat)["no-chat-template"].severity == "error"
    assert look(student=student, teacher=same, prompts=prompts)["plain-prompts"].severity == "info"


def test_a_template_that_writes_the_time(tmp_path: Path) -> None:
    clock = "{{ strftime_now('%H:%M:%S.%f') }} {{ messages[0].content }}"
    source = rows(tmp_path / "rows.jsonl", {"prompt": "1"}, {"prompt": "2"})
    student, teacher = (chat_folder(tmp_path / name, clock) for name in "st")
    prompts = {"source": source, "chat": True}
    findings = look(student=student, teacher=teacher, prompts=prompts)
    assert findings["dated-template"].severity == "info"
    assert "chat-template-same" in findings  # both render one moment


def test_the_thinking_switch(tmp_path: Path) -> None:
    student = chat_folder(tmp_path / "s")
    source = rows(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"})

    def thinking(switch: bool | None, template: str = TEMPLATE) -> dict[str, Finding]:
        folder = chat_folder(tmp_path / "t", template)
        prompts = {"source": source, "chat": True, "thinking": switch}
        return look(student=folder, teacher=student, prompts=prompts)

    assert thinking(None)["thinking-room"].severity == "warning"
    assert "thinking-room" in thinking(True)
    assert "thinking-room" not in thinking(False)
    assert thinking(True, "{{ messages }}")["thinking-ignored"].severity == "warning"


def test_prompts_longer_than_the_context(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "s", "gpt2")
    source = rows(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "many words " * 200})
    finding = look(student=folder, teacher=folder, prompts=source)["prompts-refused"]
    assert "context leaves room for 192" in finding.text


def test_a_routed_teacher_is_shown_only_its_own_rows(tmp_path: Path) -> None:
    of_a, of_b = {"prompt": "a", "topic": "a", "hint": "b"}, {"prompt": "b", "topic": "b"}
    routes = {"a": {"kind": "self", "prompt": "{prompt} {hint}"}}
    findings = look(
        teacher={"route_by": "topic", "routes": routes},
        prompts=rows(tmp_path / "p.jsonl", *[of_a, of_b] * 4),
    )
    assert findings["teacher-prompt"].evidence["example"] == "'a b'"
    assert "teacher-prompt-refused" not in findings


def test_what_teachers_are_shown(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "s", "gpt2")
    source = rows(tmp_path / "p.jsonl", *[{"prompt": "a", "hint": "b " * n} for n in (1, 200)])

    def shown(template: str) -> dict[str, Finding]:
        teacher = {"kind": "self", "prompt": template}
        return look(
            student=folder,
            teacher=teacher,
            prompts={"source": source, "count": 9},
            evaluation={"prompts": 1},
        )

    assert shown("{prompt}: {hnt}")["teacher-prompt-refused"].severity == "error"
    assert "hnt" in shown("{prompt}: {hnt}")["teacher-prompt-refused"].text
    assert shown("{prompt}?")["teacher-prompt"].evidence["example"] == "'a?'"
    long = shown("{prompt} {hint} {hint} {hint}" + " more" * 100)
    assert long["teacher-prompt-long"].severity == "error"


def test_routes_are_compared_with_the_rows(tmp_path: Path) -> None:
    source = rows(
        tmp_path / "p.jsonl", *[{"prompt": "Ann", "topic": t} for t in ("a", "a", "b", "c")]
    )

    def routed(by: str, names: str) -> dict[str, Finding]:
        routes = dict.fromkeys(names, "bundled/teacher")
        return look(teacher={"route_by": by, "routes": routes}, prompts=source)

    assert routed("topic", "a")["routes"].severity == "ok"
    assert routed("topic", "az")["route-unused"].title == "No prompt goes to z"
    assert routed("subject", "a")["route-field"].severity == "error"


def test_the_gpu_is_compared_with_the_estimate() -> None:
    estimate = Estimate(
        [MemoryPart("weights", 10e9, ""), MemoryPart("activations", 5e9, "", "update")]
    )
    assert check_gpu(estimate, 80e9, 80e9).severity == "ok"
    assert check_gpu(estimate, 16e9, 24e9).severity == "warning"
    assert check_gpu(estimate, 8e9, 24e9).severity == "error"


def test_a_run_for_a_gpu_is_measured_when_its_models_are_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCuda().install(monkeypatch)
    monkeypatch.setattr(machine, "ask_driver", lambda: DriverReport())
    findings = look()
    assert findings["memory-device"].severity == "info" and "memory" not in findings
    offloaded = look(teacher={"offload": True})
    assert "of the host's memory" in offloaded["memory"].title


def test_too_little_memory_is_a_warning_before_it_is_hopeless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    little = SimpleNamespace(available=10e6, total=24e9)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: little)
    finding = look(teacher={"offload": True})["memory"]
    assert finding.severity == "warning" and "student.lora" in finding.advice


def test_an_error_ends_the_examination_before_models_are_loaded() -> None:
    lines: list[str] = []
    config = parse({"teacher": "/no/such/folder"})
    findings = list(examine(config, models=True, callbacks=Callbacks(lines.append)))
    assert not healthy(findings)
    assert not any(text.startswith("loading") for text in lines)


def test_the_report_is_plain_and_worst_first() -> None:
    config = parse({"optimizer": {"learning_rate": 0.5}})
    reported = report(config, list(static(config, lambda _: None)))
    assert json.loads(json.dumps(reported)) == reported
    assert reported["ok"] is True
    severities = [f["severity"] for f in reported["findings"]]
    assert severities[0] == "warning" and "ok" in severities
    assert severities == sorted(severities, key=SEVERITIES.index)
    assert reported["memory"]["device"] > 0
    broken = parse({"teacher": "/no/such/folder"})
    assert report(broken, [])["memory"] is None


def test_figures_and_texts_in_words() -> None:
    assert [size(n) for n in (2.5e10, 3.4e6, 900)] == ["25.0 GB", "3.4 MB", "0.9 kB"]
    assert quoted("a\n" * 200).endswith("…'") and "\n" not in quoted("a\nb")


@pytest.mark.parametrize("stop", [{"score": 0.5}, {"patience": 2}])
def test_a_score_that_is_to_end_a_run_needs_answers(tmp_path: Path, stop: dict[str, Any]) -> None:
    def findings(**more: str) -> dict[str, Finding]:
        made = [{"prompt": f"add {i} and 2", **more} for i in range(8)]
        prompts = {"source": rows(tmp_path / "p.jsonl", *made), "probe": 0, "grader": "exact"}
        return look(prompts=prompts, evaluation={"every": 1, "prompts": 2}, stop=stop)

    refused = findings()["stop-without-answers"]
    assert refused.severity == "error"
    assert f"stop.{next(iter(stop))}" in refused.text
    assert "stop-without-answers" not in findings(answer="3")
