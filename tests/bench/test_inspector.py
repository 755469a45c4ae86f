import pytest

pytestmark = pytest.mark.browser


def test_it_prints_a_row_for_every_figure(chromium, bench_process):
    out = bench_process("inspector", "--quick")
    for figure in (
        "empty shell by address, ms",
        "1700 tokens in the page, ms",
        "1500 tokens by address, above the shell, ms",
        "frame while scrolling the longest, ms",
        "memory after 2 opens, growth, MB",
        "worst tokens of a run, one class, ms",
        "next worst token across the run, ms",
        "page of 20 runs, by address, ms",
    ):
        assert figure in out
