import re


def test_it_prints_our_rate_and_the_ratio_to_generate(bench):
    out = bench("decode", "--pairs", "1", "--rows", "4", "--tokens", "4")
    assert "4 rows x 4 new tokens" in out
    ratios = re.findall(r"ours +\d+ tokens/s   generate / ours [\d.]+ \([\d.]+ to [\d.]+\)", out)
    assert len(ratios) == 2
    copied = re.findall(r"without its copy / ours [\d.]+ \([\d.]+ to [\d.]+\)", out)
    assert len(copied) == 2
