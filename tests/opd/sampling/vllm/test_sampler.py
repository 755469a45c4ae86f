"""What is asked of a vLLM server, and what of its answers and its weights is refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from opd.errors import ErrorKind, UserError
from opd.models.load import Pair, load_pair
from opd.sampling.sample import NEVER, Limits, Request
from opd.sampling.vllm.address import ServerAddress
from opd.sampling.vllm.client import VllmClient
from opd.sampling.vllm.sampler import VllmSampler, groups_of, seed_of
from opd.sampling.vllm.weights import FullWeights
from tests.support import tiny_models
from tests.support.network.fake_vllm import FakeVllm

LIMITS = Limits(max_new_tokens=4, temperature=1.0, batch_size=8)
PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12, 13]]
REQUESTS = [Request(p, (0, 1, n, g)) for n, p in enumerate(PROMPTS) for g in range(2)]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Pair, FakeVllm, VllmSampler]]:
    folder = Path(tiny_models.save_model(tmp_path / "student"))
    pair = load_pair(str(folder), str(folder), device=torch.device("cpu"))
    with FakeVllm(folder, tmp_path / "s") as fake:
        client = VllmClient(ServerAddress(tmp_path / "s"))
        sender = FullWeights(client, tmp_path, "student", "update")
        sampler = VllmSampler(pair, client, sender, PROMPTS, has_weights=True)
        yield pair, fake, sampler
        sampler.close()


def moved(pair: Pair, by: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pair.student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * by)


def failure(sampler: VllmSampler) -> str:
    with pytest.raises(UserError) as caught:
        sampler.write(REQUESTS, LIMITS, NEVER)
    assert caught.value.kind is ErrorKind.SAMPLING_SERVER
    assert caught.value.where == "sampling.engine"
    return caught.value.message


def test_a_prompt_s_group_is_one_request_that_changes_nothing_of_the_distribution(server):
    pair, fake, sampler = server
    sampler.write(REQUESTS, LIMITS, NEVER)
    bodies = [b for path, b in fake.requests if path == "/v1/completions" and "n" in b]
    assert sorted(tuple(b["prompt"][0]) for b in bodies) == sorted(map(tuple, PROMPTS))
    for body in bodies:
        assert body["n"] == 2 and body["ignore_eos"] and not body["logprobs"]
        assert body["stop_token_ids"] == list(pair.eos_ids)
        assert (body["top_p"], body["top_k"], body["min_p"]) == (1, -1, 0)
        assert body["repetition_penalty"] == 1


def test_weights_are_sent_only_where_they_have_changed(server):
    pair, fake, sampler = server
    sampler.write(REQUESTS, LIMITS, NEVER)
    sampler.write(REQUESTS, LIMITS, NEVER)
    assert fake.updates == 0
    moved(pair)
    sampler.weights_changed()
    sampler.write(REQUESTS, LIMITS, NEVER)
    sampler.write(REQUESTS, LIMITS, NEVER)
    assert fake.updates == 1
    order = [path for path, _ in fake.requests if not path.startswith("/v1")]
    assert order == [
        "/init_weight_transfer_engine",
        *("/pause", "/start_weight_update", "/update_weights", "/finish_weight_update"),
        *("/reset_prefix_cache", "/resume"),
        *["/weight_info"] * 4,  # after the update, after writing, and around writing again
    ]


def test_what_has_begun_is_written_by_the_weights_of_then(server):
    """However the student changes meanwhile: they are sent and compared before the next begins."""
    pair, fake, sampler = server
    expected = [tuple(s.completion_ids) for s in sampler.write(REQUESTS, LIMITS, NEVER)]
    writing = sampler.begun(REQUESTS, LIMITS)
    moved(pair, 0.3)
    sampler.weights_changed()
    assert [tuple(s.completion_ids) for s in writing(NEVER)] == expected
    assert fake.updates == 0
    other = sampler.begun(REQUESTS, LIMITS)
    moved(pair, 0.3)  # as a step that trains meanwhile; what was sent has been compared
    assert fake.updates == 1
    assert [tuple(s.completion_ids) for s in other(NEVER)] != expected


@pytest.mark.parametrize("by", [0.3, 1e-4])
def test_a_server_that_ignores_new_weights_is_found_out(server, by):
    """A large move by the limit, a small one because the old weights explain the scores better."""
    pair, fake, sampler = server
    sampler.write(REQUESTS, LIMITS, NEVER)
    fake.faults.ignores_updates = True
    moved(pair, by)
    sampler.weights_changed()
    message = failure(sampler)
    assert ("does not compute what" if by > 0.1 else "did not take the new weights") in message
    assert "of 20 tokens after 4 known texts differ from the trainer's by" in message


def test_a_server_with_another_model_is_found_before_the_first_sample(server):
    pair, fake, sampler = server
    moved(pair, 0.3)
    assert "does not compute what the student computes" in failure(sampler)
    assert not [b for _, b in fake.requests if "n" in b]


def test_numbers_at_another_temperature_are_found_before_the_first_sample(tmp_path, server):
    """As a server in the mode raw_logprobs gives them, which at temperature 1 are the same."""
    pair, fake, sampler = server
    fake.faults.at_temperature_one = True
    sampler.write(REQUESTS, LIMITS, NEVER)
    client = VllmClient(ServerAddress(tmp_path / "s"))
    sender = FullWeights(client, tmp_path, "student", "update")
    cold = VllmSampler(pair, client, sender, PROMPTS, temperature=0.5, has_weights=True)
    assert "another --logprobs-mode than processed_logprobs" in failure(cold)
    client.close()


def test_a_server_without_the_version_that_was_sent_is_refused(server):
    _, fake, sampler = server
    fake.faults.wrong_version = True
    sampler.weights_changed()
    assert "has weights 'default' after 'update-1' were sent" in failure(sampler)


def test_weights_that_somebody_else_has_sent_are_noticed(server):
    _, fake, sampler = server
    sampler.weights_changed()
    sampler.write(REQUESTS, LIMITS, NEVER)
    fake.version = "other-1"
    message = "has weights 'other-1' after 'update-1' were sent; does another run send its own"
    assert message in failure(sampler)


def test_what_a_server_refuses_is_quoted(server):
    _, fake, sampler = server
    fake.faults.refuses = "/v1/completions"
    assert "answered HTTP 500: EngineCore encountered an issue" in failure(sampler)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"token_ids": None}, "gave no token_ids"),
        ({"token_ids": [5, 6, 7, 9999]}, "wrote id 9999, outside the models' "),
        ({"token_ids": [5, 6, 7, 8, 9]}, "wrote 5 tokens where 1 to 4 were asked for"),
        ({"token_ids": [5, 0, 6, 7], "logprobs": {"token_logprobs": [-1] * 4}}, "at token 2 of 4"),
        ({"token_ids": [5, 6], "logprobs": {"token_logprobs": [-1] * 2}}, "nowhere in 2 tokens"),
        ({"logprobs": {"token_logprobs": [-1.0]}}, "gave 1 log-probabilities for"),
        ({"logprobs": None}, "gave no log-probabilities for"),
        ({"token_ids": [5] * 4, "logprobs": {"token_logprobs": [0.5] * 4}}, "gave 0.5 as a log-"),
        ({"token_ids": [5] * 4, "logprobs": {"token_logprobs": [-9999.0] * 4}}, "gave -9999.0 as"),
        ({"token_ids": [5] * 4, "logprobs": {"token_logprobs": [None] * 4}}, "gave NoneType as"),
        ({"index": 7}, "answered with choices [7, 7] where 2 were asked for"),
    ],
)
def test_an_answer_that_cannot_be_true_is_refused(server, edits, message):
    _, fake, sampler = server
    fake.faults.edits = edits
    assert message in failure(sampler)


def test_a_server_that_has_gone_is_an_error_at_once(server, tmp_path):
    _, _, sampler = server
    (tmp_path / "s").unlink()
    assert "the vLLM server: /v1/completions: " in failure(sampler)


def test_seeds_of_a_run_are_distinct_and_those_of_a_group_follow_each_other():
    keys = [(s, t, p, 0) for s in range(2) for t in range(8) for p in range(64)]
    starts = {seed_of(key) % 2**32 for key in keys}
    assert len(starts) == len(keys)
    assert seed_of((3, 1, 4, 5)) == seed_of((3, 1, 4, 0)) + 5
    assert all(0 <= seed_of(key) < 2**63 for key in keys)


def test_groups_are_consecutive_numbers_of_one_prompt():
    requests = [Request([1], (0, 1, 7, 2)), Request([2], (0, 1, 8, 0)), Request([1], (0, 1, 7, 0))]
    requests += [Request([1], (0, 1, 7, 1)), Request([1], (0, 1, 7, 5)), Request([1], (0, 1, 7, 0))]
    assert groups_of(requests, alone=False) == [[2], [5, 3, 0], [4], [1]]
    assert sorted(groups_of(requests, alone=True)) == [[i] for i in range(6)]
    assert groups_of([], alone=False) == []
