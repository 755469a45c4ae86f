"""Which teacher reads which prompt."""

from typing import Any

import pytest

from opd.config.run import parse
from opd.data.prompts import Prompt
from opd.errors import UserError
from opd.teachers.routing import MAIN, by_route, field_of, route_of

ROUTED = parse(
    {
        "teacher": {
            "route_by": "topic",
            "routes": {"sums": {"kind": "self"}, "7": {"kind": "self"}},
        }
    }
)


def prompt(number: int = 0, **row: Any) -> Prompt:
    return Prompt(number, "a", (1,), None, row)


def test_a_prompt_goes_to_the_route_of_its_field() -> None:
    prompts = [prompt(i, topic=t) for i, t in enumerate(["sums", "other", 7, "sums"])]
    assert by_route(ROUTED.teacher, prompts) == {"sums": [0, 3], MAIN: [1], "7": [2]}


def test_without_routes_every_prompt_goes_to_the_main_teacher() -> None:
    assert by_route(parse({}).teacher, [prompt(), prompt(topic="sums")]) == {MAIN: [0, 1]}


def test_routes_are_fields_of_the_configuration() -> None:
    assert {field_of(route) for route in (MAIN, "sums", "7")} == set(ROUTED.teachers)


def test_a_row_without_the_field_is_named_with_what_it_has() -> None:
    with pytest.raises(UserError, match="prompt 4 has no field 'topic'; it has 'kind'") as caught:
        route_of(ROUTED.teacher, prompt(4, kind="sums"))
    assert caught.value.where == "teacher.route_by"
