import pytest

pytestmark = pytest.mark.browser


def test_it_says_when_each_thing_was_there(chromium, bench_process, tmp_path):
    out = bench_process("first_heatmap", "--quick", "--screenshots", str(tmp_path))
    assert "its heatmap is painted" in out
    assert "the run is cancelled" in out
    assert (tmp_path / "first_heatmap.png").stat().st_size > 10_000
