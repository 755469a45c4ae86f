"""A folder below a root as a page of a list."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.sources import folders
from app.sources.folders import Look, listed
from opd.errors import UserError

STUDENT = Path(folders.__file__).parents[2] / "opd" / "bundled" / "student"
DATA, MODELS = Look("data"), Look("model")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made.resolve()


def names(page: dict[str, Any]) -> list[str]:
    return [item["name"] for item in page["items"]]


def test_data_files_and_folders(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "saved").mkdir()
    (root / "saved" / "state.json").write_text("{}")
    for name in ("B.JSONL", "a.csv.gz", "notes.txt", "old.zip", ".hidden.jsonl", "state.json"):
        (root / name).write_text("x")
    page = listed(root, "", DATA)
    assert names(page) == ["saved", "sub", "a.csv.gz", "B.JSONL"]
    assert [i["value"] for i in page["items"]] == [
        *(str(root / "saved"), None),
        *(str(root / "a.csv.gz"), str(root / "B.JSONL")),
    ]
    assert (page["total"], page["left_out"], page["more"]) == (4, 0, False)
    assert page["here"]["value"] == str(root) and page["items"][2]["bytes"] == 1
    assert listed(root, "sub", DATA)["here"] | {"modified": 0} == {
        **{"name": "sub", "folder": True, "value": None, "bytes": None, "modified": 0},
        **{"model": None, "path": "sub"},
    }


def test_models_say_what_they_are(root: Path) -> None:
    shutil.copytree(STUDENT, root / "student")
    shutil.copytree(STUDENT, root / "broken")
    (root / "broken" / "model.safetensors").write_bytes(b"cut off")
    (root / "settings").mkdir()
    (root / "settings" / "config.json").write_text('{"theme": "dark"}')
    (root / "rows.jsonl").write_text("{}")
    (root / "bad.gguf").write_bytes(b"GGUF")
    page = listed(root, "", MODELS)
    assert names(page) == ["broken", "settings", "student", "bad.gguf"]
    broken, settings, student, gguf = page["items"]
    assert student["value"] == str(root / "student") and student["model"]["problem"] == ""
    assert student["model"]["kind"] == "qwen3" and student["model"]["layers"] == 4
    assert 500_000 < student["model"]["parameters"] < 1_000_000 < student["model"]["bytes"]
    assert broken["value"] is None and broken["model"]["problem"].startswith("model.saf")
    assert settings["model"] is None and settings["value"] is None
    assert gguf["value"] is None and gguf["model"]["form"] == "GGUF" and gguf["model"]["problem"]
    assert listed(root, "student", MODELS)["here"]["value"] == str(root / "student")


def test_an_adapter_names_its_base_which_is_not_looked_at(root: Path) -> None:
    folder = root / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 8}
    base = {"base_model_name_or_path": "/etc/shadow"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | base))
    shutil.copy(STUDENT / "model.safetensors", folder / "adapter_model.safetensors")
    (item,) = listed(root, "", MODELS)["items"]
    assert item["value"] == str(folder)
    assert item["model"]["base"] == "/etc/shadow" and item["model"]["rank"] == 8


def test_what_leads_outside_or_cannot_be_read_is_counted(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(STUDENT, outside)
    (root / "linked").symlink_to(outside)
    (root / "half").mkdir()
    for file in STUDENT.iterdir():
        (root / "half" / file.name).symlink_to(outside / file.name)
    (root / "new\nline").mkdir()
    (root / "turn\u202earound").mkdir()
    with open(os.fsencode(root) + b"/\xff.gguf", "wb"):
        pass
    page = listed(root, "", MODELS)
    assert names(page) == ["half"] and (page["total"], page["left_out"]) == (1, 4)
    assert page["items"][0]["value"] is None and page["items"][0]["model"] is None
    (root / "rows.jsonl").symlink_to("/etc/passwd")
    assert names(listed(root, "", DATA)) == ["half"]
    with pytest.raises(UserError, match="no such file or folder"):
        listed(root, "linked", MODELS)


def test_pages_and_searches_of_a_large_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        (root / f"rows-{number:04}.jsonl").touch()
    described: list[str] = []
    describe = folders._described

    def recorded(*arguments: Any) -> dict[str, Any]:
        described.append(arguments[2].text)
        return describe(*arguments)

    monkeypatch.setattr(folders, "_described", recorded)
    page = listed(root, "", Look("data", offset=2990))
    assert page["total"] == 3000 and names(page)[-1] == "rows-2999.jsonl"
    assert len(page["items"]) == 10
    assert described == [*names(page), root.name]
    assert names(listed(root, "", Look("data", search="ROWS-0042"))) == ["rows-0042.jsonl"]
    assert listed(root, "", Look("data", offset=10**9))["items"] == []
    monkeypatch.setattr(folders, "MAX_NAMES", 100)
    cut = listed(root, "", DATA)
    assert (cut["total"], cut["more"]) == (100, True)


def test_what_changes_meanwhile_is_left_out(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(STUDENT, outside)
    (root / "model").mkdir()

    def swapped(_: Path, folder: Path) -> None:
        if folder == root:
            return
        (root / "model").rmdir()
        (root / "model").symlink_to(outside)

    monkeypatch.setattr(folders, "leads_outside", swapped)
    assert listed(root, "", MODELS)["items"] == []
