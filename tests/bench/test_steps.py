import re


def test_it_prints_flops_shares_and_peaks(bench):
    out = bench("steps", "--quick")
    for name in ("sample", "teacher", "student", "total"):
        executed, floor, ratio = re.search(
            rf"^{name} +([\d.]+) +([\d.]+) +([\d.]+)$", out, re.M
        ).groups()
        assert float(executed) >= float(floor) > 0 and float(ratio) >= 1
    assert re.search(r"a step [\d.]+ s: .*sample \d+%", out)
    assert "GEMM peak" in out
