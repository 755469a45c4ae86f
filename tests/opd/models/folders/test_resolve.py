"""From a reference to a folder: what is fetched from the hub, what is said when nothing is."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from opd.errors import UserError
from opd.models.folders import resolve
from tests.support import tiny_models

HUB = "somebody/some-model"


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was asked of the hub; each call is answered by the folder under "answer"."""
    calls: list[dict[str, Any]] = [{"answer": None}]

    def download(reference: str, **options: Any) -> str:
        calls.append({"reference": reference, **options})
        if calls[0]["answer"] is None:
            raise LocalEntryNotFoundError("no connection")
        return str(calls[0]["answer"])

    monkeypatch.setattr(resolve, "snapshot_download", download)
    return calls


def test_a_tokenizer_is_fetched_without_weights(
    fetched: list[dict[str, Any]], tmp_path: Path
) -> None:
    tiny_models.tokenizer().save_pretrained(tmp_path / "hub")
    fetched[0]["answer"] = tmp_path / "hub"
    assert resolve.resolve_tokenizer(HUB, where="student.model") == tmp_path / "hub"
    [call] = fetched[1:]
    assert call["reference"] == HUB
    assert "*.json" in call["allow_patterns"] and "*.safetensors" not in call["allow_patterns"]


def test_without_a_network_one_line_says_so(fetched: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="could not be fetched from the hub: no connection") as e:
        resolve.resolve_tokenizer(HUB, where="student.model")
    assert (e.value.where, len(str(e.value).splitlines())) == ("student.model", 1)


def test_what_is_on_this_disk_is_not_fetched(fetched: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_models.save_model(folder)
    tiny_models.tokenizer().save_pretrained(folder)
    assert resolve.resolve_tokenizer(str(folder), where="student.model") == folder
    assert resolve.resolve_tokenizer("bundled/student", where="student.model").is_dir()
    assert fetched[1:] == []
