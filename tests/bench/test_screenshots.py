import pytest

from tests.conftest import TOKEN

pytestmark = pytest.mark.browser


def test_a_named_page_is_taken_light_and_dark(chromium, site, bench_process, tmp_path):
    options = ("--only", "runs", "--widths", "1280")
    bench_process("screenshots", site.link(f"/?token={TOKEN}"), "--out", str(tmp_path), *options)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["runs-1280-dark.webp", "runs-1280-light.webp"]
