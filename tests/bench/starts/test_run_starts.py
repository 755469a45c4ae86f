def test_both_ways_of_starting_are_timed(bench_process):
    out = bench_process("starts.run_starts", "--count", "1", "--pause", "0")
    assert out.count("loading its models") == 2
    assert "without a process that waits" in out and "\nwith a process that waits" in out
