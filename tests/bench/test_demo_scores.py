def test_it_prints_scores_before_and_after(bench):
    out = bench("demo_scores", "--seeds", "1", "--prompts", "2", "--set", "steps=1")
    assert "seed 0 heldout " in out and "median step" in out
    assert "heldout before" in out and "over 1 seeds" in out
    assert (
        "1 steps, " in out and "seconds: " in out and "peak memory" in out and "sampler gap" in out
    )
