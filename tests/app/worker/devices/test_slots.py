from app.worker.devices import slots


def test_slots() -> None:
    assert slots.choose("auto", set(), 0) == "cpu"
    assert slots.choose("auto", {"cpu"}, 0) is None
    assert slots.choose("auto", {"cuda:0"}, 2) == "cuda:1"
    assert slots.choose("cuda", {"cuda:0", "cuda:1"}, 2) is None
    assert slots.choose("cuda:1", {"cuda:0"}, 1) == "cuda:1"
    assert slots.choose("cpu", {"cuda:0"}, 1) == "cpu"
    assert slots.choose("auto", set(), 0, apple=True) == "mps"
    assert slots.choose("auto", {"mps"}, 0, apple=True) is None
    assert slots.choose("mps", set(), 1) == "mps"
    assert slots.candidates("cuda", 2) == ["cuda:0", "cuda:1"]
