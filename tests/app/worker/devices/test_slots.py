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


def test_a_run_of_several_devices_waits_for_all_of_them():
    assert slots.choose("cuda", set(), 2, count=2) == "cuda:0,cuda:1"
    assert slots.choose("auto", {"cuda:1"}, 3, count=2) == "cuda:0,cuda:2"
    assert slots.choose("cuda", {"cuda:1,cuda:2"}, 3, count=2) is None
    assert slots.choose("cuda", {"cuda:1,cuda:2"}, 3) == "cuda:0"
    assert slots.choose("cpu", set(), 0, count=3) == "cpu"  # processes share it
    assert slots.choose("cuda", set(), 1, count=2) == "cuda:0"  # refused by the run itself
    assert slots.each(["cuda:1,cuda:2", "cpu"]) == ["cuda:1", "cuda:2", "cpu"]
