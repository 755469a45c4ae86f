"""What a run's configuration names on this disk, by paths that hold in any directory."""

from pathlib import Path

import pytest

from opd.config.paths import data_path, with_absolute_paths
from opd.config.run import RunConfig, check_inputs, parse
from opd.errors import ConfigError


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with models and data, which is not the working directory; its home is above."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    base = tmp_path / "base"
    for folder in ("s", "org/model", "data", "run-abc"):
        (base / folder).mkdir(parents=True)
    (base / "rows.jsonl").write_text("")
    return base


def references(config: RunConfig) -> dict[str, str | None]:
    routes = {name: route.model for name, route in config.teacher.routes.items()}
    suites = {name: suite.source for name, suite in config.evaluation.suites.items()}
    return {
        "student": config.student.model,
        "teacher": config.teacher.model,
        "source": config.prompts.source,
        "eval": config.prompts.eval_source,
        **routes,
        **suites,
    }


def test_everything_local_becomes_absolute(base: Path) -> None:
    config = parse(
        {
            "student": "./s",
            "teacher": {
                "model": "org/model",
                "route_by": "kind",
                "routes": {"a": "../base/s", "b": "~/base/s", "c": "run-abc"},
            },
            "prompts": {"source": "rows.jsonl", "eval_source": "data"},
            "evaluation": {"suites": {"more": "data/later.jsonl"}},
        }
    )
    expected = {
        "student": "s",
        "teacher": "org/model",
        "source": "rows.jsonl",
        "eval": "data",
        "a": "s",
        "b": "s",
        "c": "run-abc",
        "more": "data/later.jsonl",
    }
    placed = with_absolute_paths(config, base)
    assert references(placed) == {name: str(base / path) for name, path in expected.items()}
    assert with_absolute_paths(placed) == placed


def test_what_is_not_on_this_disk_is_left_alone(base: Path) -> None:
    served = {"kind": "remote", "url": "http://localhost:1/v1", "model": "org/model"}
    config = parse(
        {
            "student": "some/hub-id",
            "teacher": {
                "model": "bundled/teacher",
                "route_by": "kind",
                "routes": {"a": served, "b": "run-xyz@3", "c": "run-xyz"},
            },
            "objective": "policy_gradient",
            "prompts": {"source": "bundled/facts-1", "eval_source": "some/data"},
            "evaluation": {"suites": {"more": "bundled"}},
        }
    )
    assert with_absolute_paths(config, base) == config


def test_the_home_of_a_user_who_does_not_exist_is_refused_as_a_path_that_is_not_there() -> None:
    written = "~no-such-user/rows.jsonl"
    config = parse({"student": "~no-such-user/model", "prompts": written})
    with pytest.raises(ConfigError) as caught:
        check_inputs(config)
    fields = [problem["field"] for problem in caught.value.problems]
    assert fields == ["student.model", "prompts.source"]
    assert data_path(written, Path("/base")) == f"/base/{written}"


def test_links_are_kept_and_dots_only_dropped_where_they_mean_the_same(base: Path) -> None:
    (base / "link").symlink_to(base / "org" / "model")
    config = parse(
        {"student": "./link", "teacher": "./link/../model", "prompts": "s/../rows.jsonl"}
    )
    placed = references(with_absolute_paths(config, base))
    assert placed["student"] == str(base / "link")
    assert placed["teacher"] == str(base / "link/../model")  # the link's neighbour, not ours
    assert placed["source"] == str(base / "rows.jsonl")
