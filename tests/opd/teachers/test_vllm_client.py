"""The remote teacher against a server that scores by plain float64 transformers, and its faults."""

import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.config.models import RouteConfig
from opd.errors import UserError
from opd.teachers import vllm_client
from opd.teachers.vllm_client import RemoteTeacher, batches
from tests.support import tiny_models
from tests.support.logprobs_server import (
    LogprobsServer,
    edited,
    entry,
    last,
    refused,
    same,
    scripted,
    sequences,
)

KEY = "sk-secret/+1234567890"


class Pause(Exception):
    """What pause points raise here."""


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def any_server(request, tmp_path_factory):
    folder = tiny_models.save_model(tmp_path_factory.mktemp(request.param), request.param)
    with LogprobsServer(folder) as server:
        yield folder, server.url


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with LogprobsServer(tiny_models.save_model(tmp_path_factory.mktemp("qwen3"))) as server:
        yield server


@pytest.fixture
def server(running):
    running.reset()
    running.key = None
    return running


@pytest.fixture
def teacher():
    """Makes teachers that are closed at the end and never really wait."""
    made = []

    def make(url, *, sleep=lambda seconds: None, where="teacher", transport=None, **settings):
        given = {"kind": "remote", "url": url, "model": "tiny", "top_k": 5} | settings
        config = RouteConfig(**given)
        made.append(RemoteTeacher(config, where=where, transport=transport, sleep=sleep))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("top_k", [0, 1, 7])
def test_opinions_equal_an_independent_computation(any_server, teacher, top_k):
    folder, url = any_server
    prompts, completions = sequences()
    opinions = teacher(url, top_k=top_k).read(prompts, completions)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    for prompt, completion, opinion in zip(prompts, completions, opinions, strict=True):
        ids = torch.tensor([[*prompt, *completion]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1]
        logp = torch.log_softmax(logits, -1).numpy()
        sampled = logp[np.arange(len(completion)), completion]
        np.testing.assert_allclose(opinion.logprobs, sampled, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(opinion.ranks, (logp > sampled[:, None]).sum(-1))
        assert opinion.logprobs.dtype == np.float32 and opinion.ranks.dtype == np.int64
        if top_k == 0:
            assert opinion.top_ids is None and opinion.top_logprobs is None
            continue
        best = np.argsort(-logp, axis=-1, kind="stable")[:, :top_k]
        np.testing.assert_array_equal(opinion.top_ids, best)
        expected = np.take_along_axis(logp, best, -1)
        np.testing.assert_allclose(opinion.top_logprobs, expected, rtol=0, atol=1e-5)


def test_the_request_scores_at_temperature_1_and_changes_nothing(server, teacher):
    teacher(server.url, top_k=0).read([[3, 4]], [np.array([5])])
    body = {"model": "tiny", "prompt": [[3, 4, 5]], "max_tokens": 1, "prompt_logprobs": 1}
    neutral = {"temperature": 1, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
    assert server.seen.bodies == [body | neutral | {"stream": False}]


def test_many_requests_keep_the_order_of_the_sequences(server, teacher, monkeypatch):
    prompts, completions = sequences(12)
    whole = teacher(server.url).read(prompts, completions)
    assert len(server.seen.bodies) == 1
    monkeypatch.setattr(vllm_client, "ENTRIES_PER_REQUEST", 100)
    slow_first = [0.2]
    server.faults.edit = lambda answer: time.sleep(slow_first.pop() if slow_first else 0) or answer
    same(teacher(server.url).read(prompts, completions), whole)
    assert len(server.seen.bodies) > 5


def test_choices_are_taken_by_their_number(server, teacher):
    prompts, completions = sequences()
    reader = teacher(server.url)
    whole = reader.read(prompts, completions)
    server.faults.edit = lambda answer: answer | {"choices": answer["choices"][::-1]}
    same(reader.read(prompts, completions), whole)


def test_eight_requests_are_under_way_at_once_and_no_more(server, teacher, monkeypatch):
    monkeypatch.setattr(vllm_client, "SEQUENCES_PER_REQUEST", 1)
    server.faults.at_once = threading.Barrier(8)  # breaks, unless eight meet
    opinions = teacher(server.url).read(*sequences(16))
    assert len(opinions) == 16
    assert server.seen.most_at_once == vllm_client.REQUESTS_AT_ONCE == 8


@pytest.mark.parametrize("k", [0, 20, 1024])
def test_batches_hold_each_row_once_and_bounded_answers(k):
    lengths = np.random.default_rng(k).integers(1, 3000, 300).tolist()
    cut = list(batches(lengths, k))
    assert [row for rows in cut for row in rows] == list(range(300))
    sizes = [sum(lengths[i] for i in rows) * (k + 1) for rows in cut]
    limit, most = vllm_client.ENTRIES_PER_REQUEST, vllm_client.SEQUENCES_PER_REQUEST
    assert all(s <= limit or len(r) == 1 for s, r in zip(sizes, cut, strict=True))
    assert all(len(rows) <= most for rows in cut)
    for i in range(len(cut) - 1):  # none could have taken the next row
        grown = sizes[i] + lengths[cut[i + 1][0]] * (k + 1)
        assert grown > limit or len(cut[i]) == most


def test_empty_sequences_are_a_mistake_of_the_caller(server, teacher):
    for prompts, completions in (([[]], [[1]]), ([[1]], [[]])):
        with pytest.raises(ValueError, match="sequence 0: the prompt or the completion is empty"):
            teacher(server.url).read(prompts, completions)
    assert teacher(server.url).read([], []) == [] and not server.seen.bodies


@pytest.mark.parametrize("value", [-9999.0, float("-inf"), -1e30])
def test_probability_0_is_the_lowest_finite_value(teacher, value):
    entries = [None, entry(t5=(value, 9), t1=(0.0005, 1), t3=(value, 3), t2=(value, 2))]
    reader = teacher("http://there/v1", transport=scripted(entries), top_k=3)
    (opinion,) = reader.read([[3]], [[5]])
    assert opinion.logprobs.tolist() == [-9999.0] and opinion.ranks.tolist() == [8]
    assert opinion.top_ids.tolist() == [[1, 2, 3]]  # equals are in the order of their ranks
    assert opinion.top_logprobs.tolist() == [[0.0, -9999.0, -9999.0]]  # 0.0005 is rounding


@pytest.mark.parametrize(
    ("faults", "waits"),
    [
        ({"fail_first": 3, "status": 500}, [1, 2, 4]),
        ({"fail_first": 1, "status": 503, "retry_after": "7"}, [7]),
        ({"fail_first": 2, "status": 429, "retry_after": "0.5"}, [0.5, 0.5]),
        ({"fail_first": 1, "status": 429, "retry_after": "86400"}, [300]),
        ({"fail_first": 1, "status": 429, "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, [1]),
        ({"fail_first": 1, "status": 429, "retry_after": "-3"}, [1]),
        ({"close_first": 2}, [1, 2]),
    ],
)
def test_failures_that_pass_are_tried_again(server, teacher, faults, waits):
    for name, value in faults.items():
        setattr(server.faults, name, value)
    waited = []
    (opinion,) = teacher(server.url, sleep=waited.append).read([[3, 4]], [[5, 6, 7]])
    assert waited == waits
    assert len(server.seen.bodies) == len(waits) + 1
    server.reset()
    same([opinion], teacher(server.url).read([[3, 4]], [[5, 6, 7]]))


def test_waits_double_up_to_a_minute(teacher):
    waits = []
    transport = scripted(httpx.Response(502, text="<html>Bad\n  Gateway"))
    text = refused(teacher("http://there/v1", transport=transport, sleep=waits.append, retries=8))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert "http://there/v1/completions failed 9 times (teacher.retries)" in text
    assert "HTTP 502: <html>Bad Gateway." in text


def test_slow_answers_are_timeouts(server, teacher):
    server.faults.delay = 0.3
    waits = []
    text = refused(teacher(server.url, sleep=waits.append, timeout=0.05, retries=1))
    assert "failed 2 times" in text and "no answer within 0.05 s (teacher.timeout)" in text
    assert waits == [1]


def test_an_answer_that_trickles_is_a_timeout(teacher):
    sent = []

    def trickle():
        for number in range(100):
            time.sleep(0.02)
            sent.append(number)
            yield b" "

    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=trickle()))
    reader = teacher("http://there/v1", transport=transport, timeout=0.1, retries=0)
    assert "failed once" in (text := refused(reader)) and "no answer within 0.1 s" in text
    assert len(sent) < 100, "it was read to its end"


def test_nobody_there(teacher):
    waits = []
    reader = teacher(
        "http://127.0.0.1:1/v1", sleep=waits.append, retries=2, where="teacher.routes.a"
    )
    text = refused(reader, where="teacher.routes.a.url")
    assert "failed 3 times" in text and "refused" in text and "Is the server up" in text
    assert waits == [1, 2]


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (lambda a: b"<html>hello", ["did not answer with choices"]),
        (lambda a: b'{"choices": [' + b"[" * 100_000, ["did not answer with choices"]),
        (lambda a: {"choices": ["x"]}, ["did not answer with choices"]),
        (lambda a: {"choices": []}, ["0 choices for 1 sequences"]),
        (lambda a: {"choices": [a["choices"][0] | {"index": 1}]}, ["number its choices 0 to 0"]),
        (lambda a: {"choices": [a["choices"][0] | {"index": []}]}, ["number its choices"]),
        (lambda a: {"choices": [{"index": 0}]}, ["gave no prompt_logprobs", "vLLM"]),
        (lambda a: b" " * 2_000_000, ["more than", "bytes"]),
        (edited(lambda e: e[:-1]), ["scored 4 tokens and was sent 5"]),
        (edited(lambda e: [*e, e[-1]]), ["scored 6 tokens and was sent 5"]),
        (last(None), ["nothing for token 4", "--no-enable-prefix-caching"]),
        (last({}), ["nothing for token 4"]),
        (last(entry(t1=(-1.0, 1))), ["no log-probability of token 7, which it was sent"]),
        (last(entry(t7=(-1.0, None))), ["gave no rank of token 7"]),
        (last(entry(t7=(-1.0, 0))), ["gave no rank of token 7"]),
        (last({"the": {}}), ["named a token 'the', not by its id"]),
        (last({"9" * 50: {}}), ["named a token"]),
        (last(entry(t7=(0.5, 1))), ["0.5", "--logprobs-mode"]),
        (last(entry(t7=(float("nan"), 1))), ["gave nan as"]),
        (last(entry(t7=("-1", 1))), ["gave str as log-probability"]),
        (last({"7": -1.0}), ["gave NoneType as log-probability"]),
    ],
)
def test_impossible_answers_are_refused_without_a_second_try(server, teacher, edit, parts):
    server.faults.edit = edit
    text = refused(teacher(server.url))
    assert text.startswith(f"{server.url}/completions ")
    assert all(part in text for part in parts), text
    assert len(server.seen.bodies) == 1


def test_only_the_completion_has_to_be_scored(server, teacher):
    server.faults.edit = edited(lambda e: [None, None, *e[2:]])
    assert len(teacher(server.url).read([[3, 4]], [[5, 6, 7]])[0].logprobs) == 3


def test_too_few_alternatives(server, teacher):
    server.faults.alternatives = 3
    text = refused(teacher(server.url), where="teacher.top_k")
    for part in ("3 alternatives where 5", "at most 3", "--max-logprobs 5", "policy_gradient"):
        assert part in text
    assert len(teacher(server.url, top_k=3).read([[3]], [[5]])[0].top_ids[0]) == 3


@pytest.mark.parametrize(
    ("status", "content", "where", "parts"),
    [
        (400, b'{"message": "max context is 8"}', "url", ["max context is 8", "--max-model-len"]),
        (400, b'{"detail": [{"loc": 1}]}', "url", ['{"detail": [{"loc": 1}]}']),
        (403, b"no", "key_variable", ["HTTP 403: no.", "variable"]),
        (404, b"", "url", ["HTTP 404", "/v1"]),
        (413, b"x" * 1000, "url", ["x" * 300 + "."]),
        (307, b"", "url", ["HTTP 307", "/v1"]),
    ],
)
def test_refusals_are_not_tried_again(teacher, status, content, where, parts):
    requests = []

    def handle(request):
        requests.append(request.url.host)
        return httpx.Response(status, content=content, headers={"location": "http://elsewhere/"})

    text = refused(
        teacher("http://there/v1", transport=httpx.MockTransport(handle)), where=f"teacher.{where}"
    )
    assert all(part in text for part in parts), text
    assert requests == ["there"]
    assert len(text) < 600


def test_the_key_is_sent_and_never_shown(server, teacher, monkeypatch):
    server.key = KEY
    text = refused(teacher(server.url), where="teacher.key_variable")
    assert "HTTP 401: Unauthorized: None." in text
    monkeypatch.setenv("TEACHER_KEY", KEY)
    assert len(teacher(server.url, key_variable="TEACHER_KEY").read([[3]], [[5]])) == 1
    assert server.seen.keys[-1] == f"Bearer {KEY}"
    server.key = "another"
    reader = teacher(server.url, key_variable="TEACHER_KEY")
    text = refused(reader, where="teacher.key_variable")
    assert "Unauthorized: Bearer …" in text and KEY not in text
    assert KEY not in repr(vars(reader))


def test_a_key_is_hidden_before_the_message_is_cut(teacher, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    transport = scripted(httpx.Response(400, text="x" * 290 + KEY))
    text = refused(teacher("http://there/v1", transport=transport, key_variable="TEACHER_KEY"))
    assert "x" * 290 + "…" in text and "sk-" not in text


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "zwei\nZeilen", "schlüssel"])
def test_missing_or_impossible_keys(teacher, monkeypatch, value):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(UserError, match="TEACHER_KEY") as caught:
        teacher("http://there/v1", key_variable="TEACHER_KEY")
    assert caught.value.where == "teacher.key_variable"
    assert not (value or "").strip() or value not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://me:pw@b/", "http://b/?k=pw", "http://a:99999999/", "http:///v1", "http://a..b/"]
)
def test_addresses_that_cannot_be(teacher, url):
    with pytest.raises(UserError, match=r"teacher.url: must be the address") as caught:
        teacher(url)
    assert "pw" not in str(caught.value)


def test_check_passes_with_and_without_a_closing_slash(server, teacher):
    for url in (server.url, server.url + "/"):
        teacher(url).check()
        teacher(url, top_k=0).check()
    assert len(server.seen.bodies) == 4


def test_check_names_what_does_not_fit(server, teacher):
    cases = [
        ({"model": "other"}, "teacher.model", "lists tiny, and not other"),
        ({"top_k": 21}, "teacher.top_k", "max allowed: 20. Lower it, .* --max-logprobs 21"),
        ({"url": server.url.removesuffix("/v1")}, "teacher.url", "most often in /v1"),
    ]
    for settings, where, part in cases:
        with pytest.raises(UserError, match=part) as caught:
            teacher(**{"url": server.url} | settings).check()
        assert caught.value.where == where


@pytest.mark.parametrize("content", ["{}", "[1]", '{"data": 3}', '{"data": [3, {"x": 1}]}', "no"])
def test_check_of_something_else_than_such_a_server(teacher, content):
    transport = scripted(httpx.Response(200, text=content))
    with pytest.raises(UserError, match=r"lists (nothing|None), and not tiny"):
        teacher("http://there/v1", transport=transport).check()


def test_a_pause_ends_the_reading_and_the_teacher_can_go_on(server, teacher, monkeypatch):
    monkeypatch.setattr(vllm_client, "SEQUENCES_PER_REQUEST", 1)
    monkeypatch.setattr(vllm_client, "POLL_SECONDS", 0.01)
    server.faults.delay = 0.2
    reader = teacher(server.url)

    def pause_point():
        if server.seen.bodies:
            raise Pause

    with pytest.raises(Pause):
        reader.read(*sequences(40), pause_point)
    time.sleep(0.6)  # in which the rest would have been asked
    assert 1 <= (count := len(server.seen.bodies)) <= 8
    with pytest.raises(Pause):  # known before: nothing is sent
        reader.read(*sequences(3), pause_point)
    assert len(server.seen.bodies) == count
    server.reset()
    assert len(reader.read(*sequences(3))) == 3


def test_a_pause_cuts_the_wait_for_the_next_try_short(server):
    server.faults.fail_first, server.faults.status = 1000, 429
    server.faults.retry_after = "300"
    config = RouteConfig(kind="remote", url=server.url, model="tiny", retries=100)
    reader = RemoteTeacher(config)

    def pause_point():
        if server.seen.bodies:
            raise Pause

    with pytest.raises(Pause):
        reader.read([[3]], [[5]], pause_point)
    for thread in threading.enumerate():
        if thread.name.startswith("remote-teacher"):
            thread.join(timeout=60)
            assert not thread.is_alive(), "it waits for the 300 s to pass"
    assert len(server.seen.bodies) == 1
    reader.close()


def test_importing_it_leaves_torch_unloaded():
    code = "import sys, opd.teachers.vllm_client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


STALLED = """
import socket, sys
from opd.config.models import RouteConfig
from opd.teachers.vllm_client import RemoteTeacher

server = socket.create_server(("127.0.0.1", 0))
server.settimeout(30)
url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
teacher = RemoteTeacher(RouteConfig(kind="remote", url=url, model="tiny", timeout=300))
points, held = [], []

def pause_point():
    points.append(1)
    if len(points) > 1:  # the first comes before anything is sent
        held.append(server.accept()[0])
        held[0].recv(1)
        sys.exit(7)

teacher.read([[3]], [[5]], pause_point)
"""


def test_a_process_ends_without_the_answer_of_a_stalled_server():
    command = [sys.executable, "-c", STALLED]
    assert subprocess.run(command, check=False, timeout=60).returncode == 7
