"""YAML within limits: each mistake at its line, nothing read otherwise than it stands."""

import pytest

from opd.config.drafts.yaml_text import MAX_YAML_BYTES, YamlError, load_yaml, read_file, read_yaml
from opd.config.run import parse
from opd.errors import ConfigError, UserError


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: [", 1, "line 1: not valid YAML at column"),
        ("a: 1\nb: [2\n\nc: 3", 4, "begins on line 2"),
        ("a: 1\n b: 2", 2, "at column 3"),
        ("- 1", 1, "mapping"),
        ("just text", 1, "mapping"),
        ("a: &x [1]\nb: *x", 2, "aliases"),
        ("a: 1\nb: \x00", 2, "U+0000"),
        ("a: 1\n---\nb: 2", 2, "single document"),
        ("a: !!python/object/apply:os.system ['id']", 1, "constructor"),
        ("a: " + "[" * 50, 1, "limit of 20"),
        ("a: " + "[" * 5000, 1, "nest"),
        ("a: 1\n" * MAX_YAML_BYTES, 0, "64,000 bytes (got 320,000)"),
        ("a: 2001-99-99", 0, "month"),
        ("? [a]\n: 1", 1, "unhashable"),
    ],
)
def test_bad_yaml_is_refused_in_words_at_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(YamlError, match=r"^configuration: ") as caught:
        load_yaml(text)
    assert [p.line for p in caught.value.problems] == [line]
    assert said in str(caught.value)


def test_every_key_that_stands_twice_is_named_with_both_lines() -> None:
    with pytest.raises(YamlError) as caught:
        read_yaml("steps: 1\noptimizer:\n  beta1: 0.5\n  beta1: 0.6\nsteps: 2\n")
    assert [(p.field, p.line) for p in caught.value.problems] == [
        ("optimizer.beta1", 4),
        ("steps", 5),
    ]
    assert "first on line 3" in str(caught.value) and "first on line 1" in str(caught.value)


def test_lines_of_fields_and_of_what_stands_around_them() -> None:
    text = "# note\nsteps: 3\nsampling:\n  stop_ids:\n  - 1\n  - x\nteacher: some/model\n"
    document = read_yaml("\ufeff" + text)
    assert document.data["sampling"] == {"stop_ids": [1, "x"]}
    assert [
        document.line(p) for p in ("steps", "sampling.stop_ids.1", "teacher.model", "seed")
    ] == [
        2,
        6,
        7,
        0,
    ]
    with pytest.raises(ConfigError) as caught:
        parse(document.data)
    assert str(document.located(caught.value)).endswith("(got 'x') (line 6)")
    assert document.without(["sampling.stop_ids=[2]", "steps=3"]).line("steps") == 0
    assert read_yaml("").data == read_yaml("# nothing").data == {}


def test_unreadable_file(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="UTF-8"):
        read_file(tmp_path / "bytes.yaml")
