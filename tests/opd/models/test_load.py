"""Finding, refusing and pairing models; what is loaded of a bad folder is nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from opd.config.models import LoraConfig
from opd.errors import UserError
from opd.models.folders.adapters import with_adapter
from opd.models.folders.resolve import resolve
from opd.models.load import load_pair
from tests.support import tiny_models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Path(tiny_models.save_model(tmp_path_factory.mktemp("models") / "m"))


def copy(folder, tmp_path):
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def refused(path, kind):
    with pytest.raises(UserError) as caught:
        load_pair(str(path), str(path), device=CPU)
    assert caught.value.kind == kind
    assert caught.value.where == "student.model"
    return str(caught.value)


def test_missing_folder(tmp_path):
    text = refused(tmp_path / "nothing", "missing model")
    assert str(tmp_path / "nothing") in text
    assert "bundled/student" in text


def test_folder_without_config(tmp_path):
    assert "config.json" in refused(tmp_path, "missing model")


def test_pickled_weights_are_refused_and_never_opened(folder, tmp_path):
    copied = copy(folder, tmp_path)
    (copied / "model.safetensors").unlink()
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (canary,))

    torch.save(Bomb(), copied / "pytorch_model.bin")
    text = refused(copied, "missing model")
    assert "pytorch_model.bin" in text
    assert "safetensors" in text
    assert not canary.exists()
    torch.load(copied / "pytorch_model.bin", weights_only=False)
    assert canary.exists()  # the canary works


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(folder, tmp_path, name):
    copied = copy(folder, tmp_path)
    data = json.loads((copied / name).read_text())
    data["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (copied / name).write_text(json.dumps(data))
    (copied / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    assert "auto_map" in refused(copied, "refused model")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "no-such-model"}'])
def test_damaged_config(folder, tmp_path, text):
    copied = copy(folder, tmp_path)
    (copied / "config.json").write_text(text)
    refused(copied, "missing model")


def test_damaged_weights(folder, tmp_path):
    copied = copy(folder, tmp_path)
    (copied / "model.safetensors").write_bytes(b"\x00" * 100)
    refused(copied, "missing model")


def test_hub_id_that_cannot_be_fetched(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing") as caught:
        resolve("nobody/nothing", where="teacher.model")
    assert caught.value.where == "teacher.model"


def test_lora_starts_as_the_model_itself(folder):
    pair = load_pair(str(folder), str(folder), device=CPU)
    ids = torch.tensor([[3, 4, 5]])
    before = pair.student(ids).logits
    student = with_adapter(pair.student, LoraConfig(rank=4))
    torch.testing.assert_close(student(ids).logits, before)
    trained = [n for n, p in student.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in n for n in trained)
    with pytest.raises(UserError, match="nothing_like_this"):
        with_adapter(
            load_pair(str(folder), str(folder), device=CPU).student,
            LoraConfig(targets=["nothing_like_this"]),
        )
