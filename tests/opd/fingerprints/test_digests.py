"""Digests see what has changed, of large files too, and cost no more than their limit."""

from pathlib import Path

import pytest

from opd.fingerprints import digests
from opd.fingerprints.digests import digest_of


def test_of_large_files_blocks_all_over_are_digested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "BLOCK", 8)
    weights, content = tmp_path / "model.safetensors", bytearray(4096)
    seen = set()
    for first in (None, 0, 1000, 2000, 4096 - 150):  # a tensor that must not be missed
        if first is not None:
            content[first : first + 150] = b"\1" * 150
        weights.write_bytes(content)
        seen.add(digest_of([weights], 256)["digest"])
    assert len(seen) == 5
    assert sum(len(block) for block in digests._samples(weights, 4096, 32)) == 256


def test_names_sizes_and_text_count(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("ab")
    two.write_text("c")
    both = digest_of([two, one], 1000)
    assert both == digest_of([one, two], 1000) and both["bytes"] == 3
    one.write_text("a")
    two.write_text("bc")
    assert digest_of([one, two], 1000)["digest"] != both["digest"]
    assert digest_of([], 1000) == {}
    assert digest_of([], 1000, more="settings") != digest_of([], 1000, more="setting")
