import re


def test_pieces_and_the_whole_have_the_same_gradient(bench):
    out = bench("loss_memory", "--quick")
    (gradient,) = re.findall(r"1,000 reverse_kl .* ([\d.e+-]+)$", out, re.MULTILINE)
    assert float(gradient) < 1e-5
