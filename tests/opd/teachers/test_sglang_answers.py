"""A teacher behind SGLang: the same opinions as behind vLLM, and impossible answers refused.

`test_remote` has the contract. The server is one of our own that answers in SGLang's form.
"""

import numpy as np
import pytest

from opd.config.models import RouteConfig
from opd.config.run import parse
from opd.errors import ConfigError
from opd.teachers.vllm_client import RemoteTeacher
from tests.support import tiny_models
from tests.support.logprobs_server import LogprobsServer, refused, sequences


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tiny_models.save_model(tmp_path_factory.mktemp("qwen3"))
    with LogprobsServer(folder) as vllm, LogprobsServer(folder, sglang=True) as sglang:
        yield vllm, sglang


@pytest.fixture
def teacher():
    made = []

    def make(server, **settings):
        given = {"kind": "remote", "url": server.url, "model": "tiny", "top_k": 5, "retries": 0}
        kind = "sglang" if server.sglang else "vllm"
        made.append(RemoteTeacher(RouteConfig(**given | {"server": kind} | settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("top_k", [0, 5])
def test_the_opinions_are_those_of_vllm_without_the_ranks(running, teacher, top_k):
    vllm, sglang = running
    sglang.reset()
    rows = sequences()
    pairs = zip(
        teacher(vllm, top_k=top_k).read(*rows),
        teacher(sglang, top_k=top_k).read(*rows),
        strict=True,
    )
    for a, b in pairs:
        assert b.ranks is None
        for name in ("logprobs", "top_ids", "top_logprobs"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    body = sglang.seen.bodies[-1]
    assert body["top_logprobs_num"] == top_k and body["logprob_start_len"] == 0
    assert body["sampling_params"]["temperature"] == 1 and body["return_logprob"]


def test_it_is_checked_as_vllm_is(running, teacher):
    _, sglang = running
    sglang.reset()
    teacher(sglang).check([3, 4, 5])
    assert sglang.seen.bodies[-1]["return_text_in_logprobs"] is False
    teacher(sglang).check([3, 4, 5], lambda ids: ["" for _ in ids])
    assert sglang.seen.bodies[-1]["return_text_in_logprobs"] is True


def edited(change):
    def edit(answers):
        for answer in answers:
            change(answer["meta_info"])
        return answers

    return edit


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda a: {"error": "x"}, "gave no meta_info.input_token_logprobs"),
        (lambda a: "x", "did not answer with a list of texts"),
        (lambda a: [], "0 texts for 1 sequences"),
        (edited(lambda m: m["input_token_logprobs"].pop()), "gave the likeliest of 5 tokens"),
        (edited(lambda m: m["input_token_logprobs"].append(3)), "gave the likeliest of 5 tokens"),
        (edited(lambda m: m.update(input_top_logprobs=None)), "gave 0 alternatives where 5"),
        (edited(lambda m: m["input_token_logprobs"].__setitem__(4, [-1.0])), "not [logprob, id"),
        (edited(lambda m: m["input_token_logprobs"].__setitem__(4, [None, 7, None])), "NoneType"),
        (edited(lambda m: m["input_token_logprobs"].__setitem__(4, [0.5, 7, None])), "gave 0.5"),
    ],
)
def test_impossible_answers_are_refused(running, teacher, edit, part):
    _, sglang = running
    sglang.reset()
    sglang.faults.edit = edit
    where = "teacher.top_k" if "alternatives" in part else "teacher.url"
    assert part in refused(teacher(sglang), where=where)


def test_only_a_remote_teacher_has_a_server():
    with pytest.raises(ConfigError, match=r"teacher\.server"):
        parse({"teacher": {"server": "sglang"}})
