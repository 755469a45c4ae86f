"""A vLLM server of the user's own: what it offers, what is refused, and what a run leaves there."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from opd.config.models import LoraConfig
from opd.config.resuming import with_changes
from opd.config.run import RunConfig, parse
from opd.errors import ConfigError, ErrorKind, UserError
from opd.models.folders.adapters import with_adapter
from opd.models.load import Pair, load_pair
from opd.sampling.sample import NEVER, Limits, Request
from opd.sampling.sampling_copy import SamplingCopy
from opd.sampling.vllm.address import address_of
from opd.sampling.vllm.offers import offers_of, open_routes, server_for
from opd.sampling.vllm.own_server import FOLDER, join_sampler
from opd.sampling.vllm.python import VARIABLE
from opd.sampling.vllm.sampler import VllmSampler
from opd.sampling.vllm.serving import Surroundings
from tests.support import tiny_models
from tests.support.network.fake_vllm import FakeVllm

LIMITS = Limits(max_new_tokens=4, temperature=1.0, batch_size=8)
PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12, 13]]
REQUESTS = [Request(p, (0, 1, n, g)) for n, p in enumerate(PROMPTS) for g in range(2)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_models.save_model(tmp_path_factory.mktemp("model") / "student"))


@pytest.fixture
def pair(model: Path) -> Pair:
    return load_pair(str(model), str(model), device=torch.device("cpu"))


@pytest.fixture
def server(model: Path) -> Iterator[FakeVllm]:
    with FakeVllm(model) as fake:
        yield fake


def adapted(pair: Pair, rank: int = 4) -> Pair:
    student = with_adapter(pair.student, LoraConfig(rank=rank))
    return replace(pair, student=student, sampling_copy=SamplingCopy(student, torch.float32))


def config(url: str, **more: Any) -> RunConfig:
    sampling = {"engine": "vllm", "url": url} | more.pop("sampling", {})
    return parse({"sampling": sampling, **more})


@contextmanager
def joined(pair: Pair, run: RunConfig, folder: Path) -> Iterator[VllmSampler]:
    sampler = join_sampler(pair, run, PROMPTS, Surroundings(folder=folder))
    try:
        yield sampler
    finally:
        sampler.close()


def refusal(pair: Pair, run: RunConfig, folder: Path, *, where: str = "sampling.url") -> str:
    with pytest.raises(UserError) as caught, joined(pair, run, folder) as sampler:
        sampler.write(REQUESTS, LIMITS, NEVER)
    assert caught.value.where == where
    return caught.value.message


def test_a_run_sends_its_weights_first_and_says_at_its_end_that_nobody_needs_them(
    pair, server, tmp_path
):
    with torch.no_grad():
        pair.student.lm_head.weight.mul_(1.5)  # the server has others
    with joined(pair, config(f"{server.url}/v1"), tmp_path / "run") as sampler:
        sampler.write(REQUESTS, LIMITS, NEVER)
        assert server.updates == 1
        version = server.version
        assert version.startswith("opd-") and version.endswith("-1")
    assert server.version == f"{version.removesuffix('-1')}-ended"
    assert not [*(tmp_path / "run").iterdir()]


def test_only_the_adapter_goes_to_a_server_that_loads_them(pair, model, tmp_path):
    with FakeVllm(model, transfer=None) as fake:
        run = config(fake.url, student={"lora": {"rank": 4}})
        with joined(adapted(pair), run, tmp_path / "run") as sampler:
            sampler.write(REQUESTS, LIMITS, NEVER)
            assert [*fake.adapted] and fake.version == "default"
        assert not fake.adapted and not [*(tmp_path / "run").iterdir()]


def test_an_adapter_goes_merged_where_the_server_takes_only_whole_weights(pair, server, tmp_path):
    run = config(server.url, student={"lora": {"rank": 4}})
    with joined(adapted(pair), run, tmp_path / "run") as sampler:
        sampler.write(REQUESTS, LIMITS, NEVER)
    assert server.updates == 1 and not server.adapted


def test_weights_lie_in_the_folder_that_both_see(pair, server, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "shared"))
    with joined(pair, config(server.url), tmp_path / "run") as sampler:
        sampler.write(REQUESTS, LIMITS, NEVER)
    updates = [b for path, b in server.requests if path == "/update_weights"]
    assert updates[0]["update_info"]["folder"].startswith(str(tmp_path / "shared" / "sampler-"))
    assert not [*(tmp_path / "shared").iterdir()]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file"))
    assert "cannot be made" in refusal(pair, config(server.url), tmp_path, where=FOLDER)


def test_what_the_server_cannot_do_is_named_with_its_address(pair, model, tmp_path):
    with FakeVllm(model, transfer=None) as fake:
        message = refusal(pair, config(fake.url), tmp_path)
        assert message.startswith(f"the vLLM server at {fake.url}: cannot write for this student")
        assert "VLLM_SERVER_DEV_MODE=1" in message and "docs/engines.md" in message
        run = config(fake.url, student={"lora": {"rank": 4}})
        fake.faults.highest_rank = 2
        assert "started for adapters of rank 2, and the student's has 4" in refusal(
            adapted(pair), run, tmp_path
        )
        with pytest.raises(UserError, match="started for adapters of rank 2"):
            server_for(run)  # before any model is loaded
        fake.tells = False  # and by its refusal where it does not tell
        assert "LoRA rank 4 is greater" in refusal(
            adapted(load_pair(str(model), str(model), device=pair.device)), run, tmp_path
        )
    with FakeVllm(model, transfer="nccl") as fake:
        assert "takes weights by nccl, which is not supported here" in refusal(
            pair, config(fake.url), tmp_path
        )


def test_settings_with_which_numbers_would_be_others_are_named(pair, server, tmp_path):
    server.context = 70
    assert "reads 70 tokens at most, and the longest prompt and completion are 128" in refusal(
        pair, config(server.url), tmp_path
    )
    server.context, server.logprobs_mode = 4096, "raw_logprobs"
    assert "was started with --logprobs-mode raw_logprobs" in refusal(
        pair, config(server.url), tmp_path
    )
    server.dtype = "bfloat16"
    assert "computes in bfloat16, and the student in float32" in refusal(
        pair, config(server.url), tmp_path
    )


def test_another_tokenizer_or_model_is_found_before_the_first_sample(pair, server, tmp_path):
    server.faults.ignores_updates = True
    with torch.no_grad():
        pair.student.lm_head.weight.mul_(1.5)
    message = refusal(pair, config(server.url), tmp_path)
    assert f"the vLLM server at {server.url}: does not compute what the student" in message
    server.tokenizer = lambda *_, **__: {"input_ids": [1, 2]}
    with pytest.raises(UserError, match="another tokenizer than the student") as caught:
        join_sampler(pair, config(server.url), PROMPTS, Surroundings(folder=tmp_path))
    assert caught.value.kind is ErrorKind.TOKENIZER_MISMATCH
    assert not [b for _, b in server.requests if "n" in b]


def test_a_key_is_sent_and_never_shown(pair, model, tmp_path, monkeypatch):
    with FakeVllm(model, key="sk-secret") as fake:
        message = refusal(pair, config(fake.url), tmp_path, where="sampling.key_variable")
        assert "asks for a key (HTTP 401)" in message
        monkeypatch.setenv("SERVER_KEY", "sk-secret")
        run = config(fake.url, sampling={"key_variable": "SERVER_KEY"})
        assert "sk-secret" not in repr(address_of(run.sampling))
        with joined(pair, run, tmp_path / "run") as sampler:
            sampler.write(REQUESTS, LIMITS, NEVER)
        address, _, way = server_for(run)
        assert way == "weights"
        opened = open_routes(address)
        assert "/update_weights" in opened
        assert "/v1/load_lora_adapter" not in opened  # its key is asked for


@pytest.mark.parametrize("path", ["/v1/models", "/update_weights"])
def test_not_even_a_part_of_a_key_is_shown_where_a_server_s_words_are_cut(
    pair, model, tmp_path, monkeypatch, path
):
    monkeypatch.setenv("SERVER_KEY", "sk-secret")
    with FakeVllm(model, key="sk-secret") as fake:
        fake.faults.refuses, fake.faults.words = path, "." * 294 + "sk-secret"
        run = config(fake.url, sampling={"key_variable": "SERVER_KEY"})
        message = refusal(pair, run, tmp_path)
    assert message.endswith("...…")


def test_a_server_that_does_not_answer_is_named(pair, tmp_path):
    message = refusal(pair, config("http://127.0.0.1:9"), tmp_path)
    assert message.startswith("the vLLM server at http://127.0.0.1:9: cannot be reached")
    missing = f"unix:{tmp_path}/none"
    assert "start the server with --uds" in refusal(pair, config(missing), tmp_path)
    (tmp_path / "file").write_text("")
    assert "is not a socket" in refusal(pair, config(f"unix:{tmp_path}/file"), tmp_path)
    secret = "http://me:secret@host"
    assert "secret" not in refusal(pair, config(secret), tmp_path)


def test_a_socket_of_another_user_is_refused(pair, model, tmp_path, monkeypatch):
    with FakeVllm(model, tmp_path / "s") as fake:
        with joined(pair, config(fake.url), tmp_path / "run") as sampler:
            sampler.write(REQUESTS, LIMITS, NEVER)
        monkeypatch.setattr("os.geteuid", lambda: 12345)
        assert "is the socket of another user" in refusal(pair, config(fake.url), tmp_path)


def test_only_a_vllm_run_has_a_server_of_its_own():
    for sampling, field in [
        ({"url": "http://localhost:8000"}, "sampling.url"),
        ({"engine": "vllm", "key_variable": "KEY"}, "sampling.key_variable"),
        ({"engine": "vllm", "url": "ftp://host"}, "sampling.url"),
        ({"engine": "vllm", "url": "unix:relative"}, "sampling.url"),
    ]:
        with pytest.raises(ConfigError) as caught:
            parse({"sampling": sampling})
        assert [p["field"] for p in caught.value.problems] == [field]


def test_a_run_may_go_on_with_another_server():
    before = config("http://localhost:8000").model_dump(mode="json")
    after, changes = with_changes(before, ["sampling.url=http://localhost:9000"])
    assert after.sampling.url == "http://localhost:9000"
    assert [c["field"] for c in changes] == ["sampling.url"]


REAL = [
    pytest.mark.engines,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set"),
]
PORT = "--host 127.0.0.1 --port {port}"


def documented(which: int, model: Path, listening: str) -> str:
    """A command of docs/engines.md, for this machine."""
    text = Path("docs/engines.md").read_text(encoding="utf-8").partition("## A server of your")[2]
    command = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)[which]
    for before, after in {
        "/opt/vllm/bin/python": os.environ[VARIABLE],
        "$(python ": f"$({sys.executable} ",
        "MODEL": str(model),
        "--uds /run/user/1000/vllm": listening,
    }.items():
        assert before in command or before.startswith("$")
        command = command.replace(before, after)
    return f"{command.strip()} --enforce-eager --no-enable-chunked-prefill --max-model-len 200"


@contextmanager
def running(command: str, url: str, log: Path) -> Iterator[None]:
    """The command's whole session ends with the block."""
    small = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", command],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | small,
        )
    try:
        until = time.monotonic() + 150
        while time.monotonic() < until and process.poll() is None:
            with suppress(UserError):
                offers_of(address_of(config(url).sampling))
                break
            time.sleep(0.5)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("which", [pytest.param(n, marks=REAL) for n in (0, 1)])
def test_a_real_server_started_as_documented_writes_for_the_student(which, tmp_path):
    """All weights over a Unix socket, an adapter over a port; new weights are taken."""
    pair = load_pair("bundled/student", "bundled/student", device=torch.device("cpu"))
    model = Path(pair.folders["student"])
    port = free_port()
    url = f"http://127.0.0.1:{port}" if which else f"unix:{tmp_path}/s"
    listening = PORT.format(port=port) if which else f"--uds {tmp_path}/s"
    run = config(url, **({"student": {"lora": {"rank": 32}}} if which else {}))
    with running(documented(which, model, listening), url, tmp_path / "log"):
        address, offers, way = server_for(run)
        assert way == ("adapter" if which else "weights")
        assert (offers.transfer, offers.highest_rank) == ((None, None) if which else ("files", 0))
        assert offers.logprobs_mode == (None if which else "processed_logprobs")
        assert offers.dtype == (None if which else "float32")
        opened = open_routes(address)
        assert ("/update_weights" in opened) == (not which)
        assert "/v1/load_lora_adapter" in opened if which else True
        with joined(adapted(pair, 32) if which else pair, run, tmp_path / "run") as sampler:
            before = sampler.write(REQUESTS, LIMITS, NEVER)
            with torch.no_grad():
                for parameter in sampler._pair.student.parameters():
                    if parameter.requires_grad:
                        parameter.add_(torch.randn(parameter.shape) * 0.3)
            sampler.weights_changed()
            after = sampler.write(REQUESTS, LIMITS, NEVER)
            ids = [[s.completion_ids.tolist() for s in samples] for samples in (before, after)]
            assert ids[0] != ids[1]
        if which:  # one that loads adapters does not take all weights, and says so
            assert "it takes no weights of a training model" in refusal(pair, config(url), tmp_path)
