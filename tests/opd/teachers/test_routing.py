"""Which teacher reads which prompt."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.config.run import parse
from opd.data.prompts import Prompt
from opd.errors import UserError
from opd.models.forward import ReadingRoute, take_route
from opd.models.load import Pair
from opd.teachers.local import LocalTeacher, Reader
from opd.teachers.routing import MAIN, TeacherRouter, by_route, field_of, route_of
from tests.support import tiny_models

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


def router(switch: int, hint: str) -> TeacherRouter:
    """Without a hint in `sums`; the main teacher changes its rotary factors after `switch`."""
    student, teacher = (
        AutoModelForCausalLM.from_config(tiny_models.config("qwen3", 300)) for _ in range(2)
    )
    take_route(teacher, ReadingRoute(None, switch=switch))
    device, tokenizer = torch.device("cpu"), tiny_models.tokenizer()
    reader = Reader(300, tiny_models.PAD, device)
    teachers = {
        MAIN: LocalTeacher(teacher, reader),
        "sums": LocalTeacher(student, reader),
    }
    settings = {"model": "t", "prompt": hint, "route_by": "topic", "routes": {"sums": "s"}}
    config = parse({"teacher": settings, "sampling": {"max_new_tokens": 6}})
    pair = Pair(student, teacher, tokenizer, 300, (tiny_models.EOS,), tiny_models.PAD, {}, device)
    return TeacherRouter(teachers, config, pair)


def test_whether_rotary_factors_change_is_asked_of_what_a_teacher_reads() -> None:
    hint = "step by step: {topic}"
    tokens = len(tiny_models.tokenizer()("step by step: b")["input_ids"])
    assert tokens > 6
    with pytest.raises(UserError, match=f"the longest of {tokens} tokens") as caught:
        router(tokens, hint).check_prompts([prompt(topic="b")])
    assert caught.value.where == "teacher.model"
    router(tokens + 5, hint).check_prompts([prompt(topic="b")])
    router(3, hint).check_prompts([prompt(topic="b")])  # beyond it from the start
    router(3, "{topic}").check_prompts([prompt(topic="sums")])  # another teacher's
