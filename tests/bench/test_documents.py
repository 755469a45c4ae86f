"""What documents take from the source is what the source says, and complete."""

import pytest

from bench import documents
from opd.config.run import parse
from opd.loss.objective_table import OBJECTIVES, TRAINABLE
from opd.metrics import METRICS


def page(name: str) -> str:
    return (documents.DOCS / name).read_text(encoding="utf-8")


def test_the_settings_page_is_written_from_the_schema() -> None:
    assert page("settings.md") == documents.settings()


def test_metrics_are_written_from_their_table() -> None:
    assert page("guide/metrics.md") == documents.metrics()
    assert documents.METRIC_TABLE.read_text(encoding="utf-8") == documents.metric_table()
    assert all(f"| `{name}` |" in page("guide/metrics.md") for name in METRICS)


@pytest.mark.parametrize("name", ["method.md", "guide/loss-lab.md"])
def test_tables_of_objectives_are_written_from_the_table(name: str) -> None:
    text = page(name)
    assert documents.with_tables(text) == text
    assert "<!-- end of" in text


def leaves(data: dict[str, object], prefix: str = "") -> list[str]:
    names = []
    for name, value in data.items():
        inner = leaves(value, f"{prefix}{name}.") if isinstance(value, dict) and value else []
        names += inner or [f"{prefix}{name}"]
    return names


def test_every_setting_has_its_line() -> None:
    lora = {"rank": 8}
    text = documents.settings()
    for path in leaves(parse({"student": {"lora": lora}}).model_dump(mode="json")):
        assert f"| `{path}` |" in text, path


def test_every_objective_has_its_line_in_both_tables() -> None:
    for name in OBJECTIVES:
        assert f"| `{name}`" in documents.certainty()
        assert (f"| `{name}`" in documents.objectives()) == (name in TRAINABLE)


def test_a_stale_table_is_written_anew_and_text_around_it_stays() -> None:
    stale = "a\n<!-- certainty, written by bench.documents -->\nold\n<!-- end of certainty -->\nb\n"
    fresh = documents.with_tables(stale)
    assert "old" not in fresh and fresh.startswith("a\n<!--") and fresh.endswith("-->\nb\n")
    assert documents.certainty() in fresh
