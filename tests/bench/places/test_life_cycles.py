"""Random life cycles on several hosts, with a copy: a few here, 200 by `bench.places`."""

import pytest

from bench.places import life_cycles

SEEDS = range(12)


def test_no_run_is_ended_by_another_runs_twice_or_is_stuck() -> None:
    assert life_cycles.cycles(SEEDS) == {}


def test_without_the_check_of_places_cycles_fail() -> None:
    assert len(life_cycles.cycles(SEEDS, checked=False)) > len(SEEDS) / 4


def test_the_command_exits_with_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["life_cycles", "--count", "2", "--seed", "4", "--unchecked"])
    assert life_cycles.main() == 0
    out = capsys.readouterr().out
    assert "cycle 4: run-" in out and "of 2 went wrong" in out
