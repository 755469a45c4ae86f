"""A folder whose tokenizer is not complete names the file: transformers would make an empty one."""

import json

import pytest

from opd.config.folders import local_folder
from opd.errors import UserError
from opd.models.tokenizers import load_tokenizer
from tests.support import tiny_models


@pytest.fixture
def folder(tmp_path):
    tiny_models.save_model(tmp_path / "model", "llama")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ((), "has no tokenizer.json (nor tokenizer.model, nor vocab.json with merges.txt)"),
        (("vocab.json",), "has vocab.json but no merges.txt (nor tokenizer.json)"),
        (("merges.txt",), "has merges.txt but no vocab.json (nor tokenizer.json)"),
        (("tekken.json",), "has tekken.json, Mistral's own format, but no tokenizer.json"),
    ],
)
@pytest.mark.parametrize("settings", [True, False])
def test_the_missing_file_is_named(folder, files, text, settings):
    (folder / "tokenizer.json").unlink()
    if not settings:
        (folder / "tokenizer_config.json").unlink()
    for name in files:
        (folder / name).write_text("{}")
    with pytest.raises(UserError) as caught:
        local_folder(str(folder), where="student.model")
    assert str(caught.value) == (
        f"student.model: {folder} {text}; copy the missing file from where the model comes from"
    )


def test_a_vocabulary_with_its_merges_is_whole(folder):
    backend = json.loads((folder / "tokenizer.json").read_text())["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in backend["merges"]]
    (folder / "vocab.json").write_text(json.dumps(backend["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    path = local_folder(str(folder), where="m")
    assert path is not None
    assert load_tokenizer(path, where="m").get_vocab().items() >= backend["vocab"].items()
