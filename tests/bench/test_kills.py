def test_a_killed_run_is_compared_with_one_left_alone(bench_process):
    out = bench_process("kills", "--warm", "--count", "1", "--case", "full")
    assert "identical" in out and "1 of 1 identical" in out


def test_a_killed_saver_leaves_a_checkpoint_that_loads(bench_process):
    out = bench_process("kills", "--saving", "--count", "1")
    assert "1 of 1 kills left a latest checkpoint that loads" in out
