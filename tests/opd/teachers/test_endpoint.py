"""Several addresses of one teacher: who is asked next, and what a failure changes."""

import httpx
import numpy as np
import pytest

from opd.config.models import RouteConfig
from opd.errors import UserError
from opd.teachers import endpoint as module
from opd.teachers.endpoint import Endpoint, EndpointPool, UnansweredError
from opd.teachers.vllm_client import RemoteTeacher
from tests.support import tiny_models
from tests.support.logprobs_server import LogprobsServer, same, sequences

IDS = [3, 40, 5, 60, 7, 80, 9]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Two of one model, and one of another."""
    folders = [
        tiny_models.save_model(tmp_path_factory.mktemp("model"), seed=seed, scale=3.0)
        for seed in (0, 0, 1)
    ]
    with (
        LogprobsServer(folders[0]) as a,
        LogprobsServer(folders[1]) as b,
        LogprobsServer(folders[2]) as c,
    ):
        yield a, b, c


@pytest.fixture(autouse=True)
def fresh(servers):
    for server in servers:
        server.reset()
        server.texts = lambda i: None


@pytest.fixture
def teacher():
    made = []

    def make(*urls, said=None, **settings):
        given = {"kind": "remote", "url": list(urls), "model": "tiny", "top_k": 5} | settings
        say = said.append if said is not None else print
        made.append(RemoteTeacher(RouteConfig(**given), sleep=lambda _: None, say=say))
        return made[-1]

    yield make
    for one in made:
        one.close()


def endpoints(count):
    config = RouteConfig(kind="remote", url="http://a/v1", model="tiny")
    return EndpointPool([Endpoint(f"http://{n}/v1", config, "teacher", None) for n in range(count)])


def test_addresses_are_a_list_or_one_text():
    for url in (["http://a/v1", "http://b/v1"], "http://a/v1 ,http://b/v1"):
        assert RouteConfig(kind="remote", url=url).urls == ["http://a/v1", "http://b/v1"]
    one = RouteConfig(kind="remote", url="http://a/x,y/v1")
    assert one.urls == ["http://a/x,y/v1"]


def test_the_least_busy_is_next_and_those_that_failed_come_last(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    shared = endpoints(2)
    a, b = shared.all
    with shared.at_work(a):
        assert shared.next(set()) is b and shared.next({b}) is a
        with shared.at_work(b), shared.at_work(b):
            assert shared.next(set()) is a
    assert shared.failed(a) and a.doubted
    assert not shared.failed(a)  # a request that was under way with it
    assert shared.next(set()) is b and shared.next({b}) is a and shared.next({a, b}) is None
    now[0] = module.FIRST_REST + 1
    assert not shared.failed(a) and a.rests_until == now[0] + 2 * module.FIRST_REST
    with shared.at_work(a):
        pass
    assert a.rests_until == 0 and shared.failed(a)


def test_addresses_share_the_requests(servers, teacher, monkeypatch):
    monkeypatch.setattr("opd.teachers.vllm_client.SEQUENCES_PER_REQUEST", 1)
    a, b, _ = servers
    a.faults.delay = b.faults.delay = 0.02
    prompts, completions = sequences(40)
    both = teacher(a.url, b.url)
    both.check(IDS)
    readings = both.read(prompts, completions)
    counts = [len(server.seen.bodies) for server in (a, b)]
    assert sum(counts) == 42 and min(counts) > 10
    same(readings, teacher(a.url).read(prompts, completions))


def test_rows_of_one_that_fails_go_to_the_others_and_it_is_said_once(servers, teacher, monkeypatch):
    monkeypatch.setattr("opd.teachers.vllm_client.SEQUENCES_PER_REQUEST", 1)
    a, b, _ = servers
    prompts, completions = sequences(12)
    whole, said = teacher(b.url).read(prompts, completions), []
    a.faults.close_first = 1000
    same(teacher(a.url, b.url, said=said, retries=0).read(prompts, completions), whole)
    (text,) = said
    assert text.startswith(f"{a.url} failed (") and "teacher.url take its requests" in text
    dead = "http://127.0.0.1:1/v1"
    same(teacher(dead, b.url, retries=0).read(prompts, completions), whole)


def test_where_all_fail_each_is_named(servers, teacher):
    a, b, _ = servers
    a.faults.fail_first, b.faults.close_first = 1000, 1000
    with pytest.raises(UserError) as caught:
        teacher(a.url, b.url, retries=1).read([[3, 4]], [[5]])
    text = caught.value.message
    assert f"{a.url}/completions failed 2 times (teacher.retries), at last with: HTTP 500" in text
    assert f"{b.url}/completions failed 2 times" in text and "Is none of them up?" in text


def test_addresses_of_different_models_are_refused_at_the_start(servers, teacher):
    a, b, c = servers
    teacher(a.url, b.url).check(IDS)
    with pytest.raises(UserError, match="is it another model") as caught:
        teacher(a.url, c.url).check(IDS)
    assert caught.value.where == "teacher.url"
    assert f"{c.url} scores the same tokens otherwise than {a.url}" in caught.value.message


def test_a_server_that_comes_back_as_another_model_is_refused(servers, teacher, monkeypatch):
    a, _, c = servers
    reader = teacher(a.url)
    reader.check(IDS)
    reader.read([[3, 4]], [[5]])
    a.faults.close_first = 1
    monkeypatch.setattr(a, "model", c.model)
    with pytest.raises(UserError, match="otherwise than at the start"):
        reader.read([[3, 4]], [[5]])


def test_a_server_that_comes_back_as_it_was_goes_on(servers, teacher):
    a, _, _ = servers
    reader = teacher(a.url)
    reader.check(IDS)
    before = reader.read([[3, 4]], [[5]])
    a.faults.close_first = 2
    same(reader.read([[3, 4]], [[5]]), before)


def test_another_tokenizer_is_told_by_the_texts_of_its_ids(servers, teacher):
    a, _, _ = servers
    a.texts = lambda i: f"\u0120w{i}"
    teacher(a.url).check(IDS, lambda ids: [f" w{i}" for i in ids])
    with pytest.raises(UserError, match="ids stand for other text") as caught:
        teacher(a.url).check(IDS, lambda ids: [f"w{i + 1}" for i in ids])
    assert caught.value.where == "teacher.model" and caught.value.kind == "tokenizer mismatch"
    a.texts = lambda i: None  # started with --skip-tokenizer-init
    teacher(a.url).check(IDS, lambda ids: [f"w{i + 1}" for i in ids])


def test_a_single_try_tells_what_another_one_may_answer():
    def answer_to(response):
        config = RouteConfig(kind="remote", url="http://a/v1", model="tiny")
        transport = httpx.MockTransport(lambda _: response)
        return Endpoint("http://a/v1", config, "teacher", transport).once("/x", None, 100)

    assert answer_to(httpx.Response(200, json={"a": 1})) == {"a": 1}
    with pytest.raises(UnansweredError, match="HTTP 503: busy") as caught:
        answer_to(httpx.Response(503, text="busy", headers={"retry-after": "7"}))
    assert caught.value.delay == 7
    with pytest.raises(UserError, match="answered HTTP 400"):
        answer_to(httpx.Response(400, text="no"))
    with pytest.raises(UserError, match="more than 100 bytes"):
        answer_to(httpx.Response(200, content=np.zeros(200).tobytes()))
