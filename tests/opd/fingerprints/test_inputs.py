"""What a run depends on, by digest: every change is seen and named, and nothing else is."""

import json
import os
import shutil
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from opd.config.run import RunConfig, parse
from opd.fingerprints.differences import changes
from opd.fingerprints.inputs import fingerprints
from tests.support.in_process_runs import write_rows

ROWS = [{"prompt": f"question {i}"} for i in range(4)]


def write_model(folder: Path) -> str:
    """The files of a model folder; nothing here loads it."""
    folder.mkdir()
    for name, text in {
        "config.json": '{"model_type": "llama"}',
        "generation_config.json": '{"eos_token_id": 2}',
        "model.safetensors": "weights",
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"eos_token": "</s>", "chat_template": "{{ messages }}"}',
    }.items():
        (folder / name).write_text(text)
    return str(folder)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    student, teacher = (write_model(tmp_path / name) for name in ("student", "teacher"))
    route = {"model": write_model(tmp_path / "other"), "kind": "model"}
    return parse(
        {
            "student": student,
            "teacher": {"model": teacher, "route_by": "kind", "routes": {"b": route}},
            "prompts": {
                "source": write_rows(tmp_path / "rows.jsonl", ROWS),
                "eval_source": write_rows(tmp_path / "held.jsonl", ROWS),
            },
            "evaluation": {"suites": {"more": write_rows(tmp_path / "more.jsonl", ROWS)}},
        }
    )


def changes_after(config: RunConfig, change: Callable[[], Any]) -> list[str]:
    """What a change of the disk is called."""
    before = fingerprints(config, online=False)
    change()
    after = fingerprints(config, online=False)
    assert json.loads(json.dumps(after)) == after  # as it is stored
    return [f"{c['field']}: {c['text']}" for c in changes(before, after)]


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        (
            "rows.jsonl",
            '{"prompt": 1}\n\n{"prompt": 2}\n',
            "prompts.source: rows.jsonl has 2 rows, 4",
        ),
        ("held.jsonl", '{"prompt": "x"}\n' * 5, "prompts.eval_source: held.jsonl has 5 rows, 4"),
        (
            "more.jsonl",
            '{"prompt": "question 99"}\n' * 4,
            ".suites.more.source: more.jsonl changed: ",
        ),
        ("student/model.safetensors", "weightz", "student.model: weights changed, with the same"),
        ("student/config.json", "{}", "student.model: model settings changed: 21 bytes, 42 when"),
        ("student/generation_config.json", "{}", "student.model: model settings changed"),
        ("student/chat_template.jinja", "{{ 1 }}", "student.model: chat template changed"),
        ("student/tokenizer.json", '{"a": 1}', "student.model: tokenizer changed"),
        ("teacher/model.safetensors", "more weights", "teacher.model: weights changed"),
        ("other/model.safetensors", "weightz", "teacher.routes.b.model: weights changed"),
        ("teacher/adapter_config.json", "{}", "teacher.model: adapter added since the run started"),
    ],
)
def test_a_change_is_named_by_field_and_part(
    config: RunConfig, tmp_path: Path, file: str, text: str, line: str
) -> None:
    (only,) = changes_after(config, lambda: (tmp_path / file).write_text(text))
    assert line in only


def test_the_template_among_the_tokenizers_settings_is_a_part_of_its_own(
    config: RunConfig, tmp_path: Path
) -> None:
    settings = tmp_path / "student" / "tokenizer_config.json"
    data = json.loads(settings.read_text())
    data["chat_template"] = "x"
    (line,) = changes_after(config, lambda: settings.write_text(json.dumps(data)))
    assert line.startswith("student.model: chat template changed")
    data["eos_token"] = "<e>"
    (line,) = changes_after(config, lambda: settings.write_text(json.dumps(data)))
    assert line.startswith("student.model: tokenizer changed")


def test_a_base_model_changes_with_its_adapter(config: RunConfig, tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (adapter / "adapter_model.safetensors").write_text("a")
    config = parse({"student": str(adapter)})
    (line,) = changes_after(
        config, lambda: (tmp_path / "base" / "model.safetensors").write_text("x")
    )
    assert line.startswith("student.model: base model's weights changed")
    (line,) = changes_after(config, lambda: (adapter / "adapter_model.safetensors").write_text("b"))
    assert line.startswith("student.model: adapter changed")


def test_a_base_beside_its_adapter_is_compared(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    write_model(tmp_path / "adapter" / "base")
    settings = {"base_model_name_or_path": "base"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter" / "adapter_model.safetensors").write_text("a")
    config = parse({"student": str(tmp_path / "adapter")})
    weights = tmp_path / "adapter" / "base" / "model.safetensors"
    (line,) = changes_after(config, lambda: weights.write_text("x"))
    assert line.startswith("student.model: base model's weights changed")


def test_adapters_that_name_each_other_have_no_base(tmp_path: Path) -> None:
    for name, base in (("one", "two"), ("two", "one")):
        (tmp_path / name).mkdir()
        settings = {"base_model_name_or_path": str(tmp_path / base)}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(settings))
    made = fingerprints(parse({"student": str(tmp_path / "one")}), online=False)
    assert list(made["student.model"]) == ["adapter"]


def test_times_copies_and_files_beside_are_no_change(config: RunConfig, tmp_path: Path) -> None:
    def copy() -> None:
        shutil.copytree(tmp_path / "student", tmp_path / "copy")
        shutil.rmtree(tmp_path / "student")
        (tmp_path / "student").symlink_to(tmp_path / "copy")
        (tmp_path / "copy" / "README.md").write_text("a model")
        os.utime(tmp_path / "rows.jsonl", (1, 1))

    assert changes_after(config, copy) == []


def test_what_cannot_be_read_is_not_compared(config: RunConfig, tmp_path: Path) -> None:
    assert changes_after(config, (tmp_path / "rows.jsonl").unlink) == []
    before = fingerprints(config, online=False)
    assert "prompts.source" not in before and "prompts.eval_source" in before


def test_a_folder_of_data_is_all_its_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    write_rows(data / "train" / "one.jsonl", ROWS)
    config = parse({"prompts": str(data)})
    assert changes_after(config, lambda: (data / "cache-1.arrow").write_text("x")) == []
    (line,) = changes_after(config, lambda: write_rows(data / "train" / "two.jsonl", ROWS))
    assert line.startswith("prompts.source: data changed: ")


def test_bundled_models_have_fingerprints_and_bundled_data_needs_none() -> None:
    made = fingerprints(parse({}), online=False)
    assert set(made) == {"student.model", "teacher.model"}
    assert set(made["student.model"]) >= {"weights", "model settings", "tokenizer"}


def test_a_revision_that_cannot_be_told_is_not_compared() -> None:
    adapter = {"adapter": {"digest": "a", "bytes": 1}}
    earlier = {"student.model": {**adapter, "base model's revision": {"digest": "b"}}}
    assert changes(earlier, {"student.model": adapter}) == []
    assert changes({"student.model": adapter}, earlier) == []


def test_a_repository_of_the_hub_is_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = parse({"student": "some/model", "prompts": "some/data"})

    def cache(kind: str, commit: str) -> None:
        folder = tmp_path / f"{kind}s--some--{'model' if kind == 'model' else 'data'}"
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)

    cache("model", "a" * 40)
    cache("dataset", "b" * 40)
    (line,) = changes_after(config, lambda: cache("model", "c" * 40))
    assert line == f"student.model: revision is {'c' * 40}, was {'a' * 40} when the run started"
    (line,) = changes_after(config, lambda: cache("dataset", "d" * 40))
    assert line.startswith("prompts.source: revision is d")


def test_a_server_is_what_it_says_it_serves() -> None:
    models = [{"id": "other", "root": "x"}, {"id": "tiny", "root": "/models/one"}]

    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps({"data": models}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Models)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    teacher = {"kind": "remote", "url": url, "model": "tiny"}
    config = parse({"teacher": teacher, "objective": "policy_gradient"})
    try:
        before = fingerprints(config, online=True)
        assert "teacher.model" not in fingerprints(config, online=False)
        models[1]["root"] = "/models/two"
        (change,) = changes(before, fingerprints(config, online=True))
        assert change["text"] == (
            "served model is /models/two, was /models/one when the run started"
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "teacher.model" not in fingerprints(config, online=True)  # nobody answers
