"""One contract for whoever judges: a model in this process, or one behind a server."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from app.worker.engines.teacher_servers import TeacherServers
from opd.config.models import RouteConfig
from opd.errors import UserError
from opd.models.batches import Sequences
from opd.models.load import load_model
from opd.sampling.sample import NEVER, Stopped
from opd.sampling.vllm.python import VARIABLE
from opd.teachers.end_token import EndToken
from opd.teachers.local import LocalTeacher, Reader, Teacher, View
from opd.teachers.remote import ServerTeacher
from opd.teachers.serving import SERVED_NAME, TeacherServing
from opd.teachers.vllm_client import RemoteTeacher
from storage.data_dir import RunDir
from tests.support.logprobs_server import LogprobsServer

FOLDER = Path(__file__).parents[3] / "opd" / "bundled" / "teacher"
VOCAB, K = 76, 5
NATS = 5e-5
Make = Callable[..., Teacher]  # of a reader's vocabulary, and an end


def rows() -> Sequences:
    """Short and long ones, and a prompt that two share."""
    rng = np.random.default_rng(0)
    lengths = [(1, 1), (1, 90), (60, 1), (12, 30), (12, 7)]
    texts = [[rng.integers(0, VOCAB, n).tolist() for n in pair] for pair in lengths]
    texts.append([texts[-1][0], [5, 6]])
    return Sequences([p for p, _ in texts], [c for _, c in texts])


def reader(vocab: int) -> Reader:
    return Reader(vocab, 0, torch.device("cpu"))


@contextmanager
def local(_: Path) -> Iterator[Make]:
    model = load_model(FOLDER, where="teacher.model")
    yield lambda vocab=VOCAB, end=None: LocalTeacher(model, reader(vocab), end=end)


def behind(url: str, name: str, k: int, socket: Path | None = None, kind: str = "vllm") -> Make:
    config = RouteConfig(kind="remote", url=url, model=name, top_k=k, retries=0, server=kind)

    def make(vocab: int = VOCAB, end: EndToken | None = None) -> Teacher:
        remote = RemoteTeacher(config, socket=socket)
        return ServerTeacher(remote, reader(vocab), NEVER, end, whole=k == VOCAB)

    return make


@contextmanager
def some_of_a_server(_: Path) -> Iterator[Make]:
    with LogprobsServer(str(FOLDER)) as server:
        yield behind(server.url, server.name, K)


@contextmanager
def all_of_a_server(_: Path) -> Iterator[Make]:
    with LogprobsServer(str(FOLDER), max_logprobs=VOCAB) as server:
        yield behind(server.url, server.name, VOCAB)


@contextmanager
def some_of_sglang(_: Path) -> Iterator[Make]:
    with LogprobsServer(str(FOLDER), sglang=True) as server:
        yield behind(server.url, server.name, K, kind="sglang")


@contextmanager
def all_of_sglang(_: Path) -> Iterator[Make]:
    with LogprobsServer(str(FOLDER), sglang=True) as server:
        yield behind(server.url.removesuffix("/v1"), server.name, VOCAB, kind="sglang")


@contextmanager
def real(folder: Path) -> Iterator[Make]:
    settings = TeacherServing("teacher", FOLDER, "float32", "cpu", 128, VOCAB, 2**28)
    with TeacherServers(RunDir(folder), NEVER, print) as servers:
        socket = servers.serve(settings)
        yield behind("http://localhost/v1", SERVED_NAME, VOCAB, socket)


REAL = pytest.param(
    real,
    marks=[
        pytest.mark.engines,
        pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set"),
    ],
)


ENGINES = [local, some_of_a_server, all_of_a_server, some_of_sglang, all_of_sglang, REAL]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, tmp_path_factory) -> Iterator[Make]:
    made: list[Teacher] = []
    with request.param(tmp_path_factory.mktemp("judge")) as make:

        def kept(*args: object, **settings: object) -> Teacher:
            made.append(make(*args, **settings))
            return made[-1]

        yield kept
        for teacher in made:
            teacher.close()


def expected(sequences: Sequences, vocab: int = VOCAB, temperature: float = 1.0) -> torch.Tensor:
    """(N, vocab) log-probabilities by plain transformers, in float64."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float64).eval()
    parts = []
    with torch.no_grad():
        for prompt, completion in zip(sequences.prompts, sequences.completions, strict=True):
            logits = model(torch.tensor([[*prompt, *completion]])).logits[0]
            parts.append(logits[len(prompt) - 1 : -1, :vocab])
    return torch.log_softmax(torch.cat(parts) / temperature, -1)


def views(teacher: Teacher, batches: list[Sequences], temperature: float = 1.0) -> list[View]:
    read = []
    for batch, reading in zip(batches, teacher.read(batches, temperature), strict=True):
        targets = torch.tensor([i for c in batch.completions for i in c])
        read.append(reading.view(slice(0, len(targets)), targets))
    return read


def agree(view: View, logp: torch.Tensor, sequences: Sequences, *, likeliest: bool = True) -> None:
    targets = torch.tensor([i for c in sequences.completions for i in c])
    sampled = logp.gather(1, targets[:, None])
    torch.testing.assert_close(view.at.double(), sampled[:, 0], rtol=0, atol=NATS)
    if view.rank is not None:  # SGLang tells none beside some of the likeliest
        assert view.rank.tolist() == (logp > sampled).sum(1).tolist()
    if view.full is not None:
        torch.testing.assert_close(view.full.double(), logp, rtol=0, atol=NATS)
    elif likeliest:
        assert view.top_ids is not None and view.top is not None
        top, ids = logp.topk(K)
        assert view.top_ids.tolist() == ids.tolist()
        torch.testing.assert_close(view.top.double(), top, rtol=0, atol=NATS)


def test_the_same_tokens_have_the_same_scores(engine):
    whole = rows()
    (view,) = views(engine(), [whole])
    agree(view, expected(whole), whole)


def test_a_reading_is_that_of_its_batch_and_of_its_span(engine):
    whole = rows()
    batches = [whole.take([3, 0]), whole.take([1]), whole.take([5, 4, 2])]
    for batch, view in zip(batches, views(engine(), batches), strict=True):
        agree(view, expected(batch), batch)
    (reading,) = engine().read([whole], 1.0)
    targets = torch.tensor([i for c in whole.completions for i in c])
    part = reading.view(slice(3, 11), targets[3:11])
    (all_of_it,) = views(engine(), [whole])
    assert part.at.tolist() == all_of_it.at[3:11].tolist()


def test_another_temperature_is_exact_or_refused(engine):
    whole, teacher = rows(), engine()
    if isinstance(teacher, ServerTeacher) and not teacher._whole:
        with pytest.raises(UserError, match="only at temperature 1") as caught:
            list(teacher.read([whole], 0.7))
        assert caught.value.where == "sampling.temperature"
        return
    (view,) = views(teacher, [whole], 0.7)
    agree(view, expected(whole, temperature=0.7), whole)


def test_ids_that_the_student_lacks_are_cut_off_or_refused(engine):
    few = VOCAB - 8
    prompts, completions = rows().prompts, rows().completions
    whole = Sequences(prompts, [[i % few for i in c] for c in completions])
    teacher = engine(vocab=few)
    if isinstance(teacher, ServerTeacher) and not teacher._whole:
        with pytest.raises(UserError, match="its tokenizer is not the student's"):
            views(teacher, [whole])
        return
    (view,) = views(teacher, [whole])
    assert view.full is not None and view.full.shape[1] == few
    agree(view, expected(whole, few), whole)


def test_its_own_end_stands_for_the_students(engine):
    """The student ends with 7; the teacher is shown 9, and both ids' probabilities change places"""
    sent, shown = Sequences([[3, 4], [5]], [[6, 8, 7], [6, 8]]), [[6, 8, 9], [6, 8]]
    (view,) = views(engine(end=EndToken("end", 9, (7,))), [sent])
    logp = expected(Sequences(sent.prompts, shown))
    swapped = logp.clone()
    swapped[:, 7], swapped[:, 9] = logp[:, 9], logp[:, 7]
    agree(view, swapped, sent, likeliest=view.full is not None)
    if view.top_ids is not None:
        assert view.top_ids.tolist() == swapped.topk(K).indices.tolist()


def test_a_stop_ends_the_reading(engine):
    teacher = engine()
    if isinstance(teacher, ServerTeacher):
        teacher._stop = lambda: True
        with pytest.raises(Stopped):
            list(teacher.read([rows()], 1.0))
