"""A chat's figures are those of a fresh reading, whatever its models have read before."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from bench.causal_models.checks import save
from opd.config.run import parse
from opd.errors import UserError
from opd.interactive.read_prefixes import ChatPrefixes, ReadPrefixes
from opd.interactive.scored_chat import Reply, ReplySettings, ReplyWriter
from opd.loss import divergences
from opd.sampling import decoder, fast_decoder
from opd.training.loading import Callbacks, LoadedModels, load_models
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

NEAR = 1e-5  # nats
FIRST = tuple(range(5, 45))  # longer than the models' windows
CUT_BACK = {"decoded by FastDecoder": "qwen3", **tiny_models.WITH_A_CACHE}
READ_WHOLE = {"recurrent": "mamba", "hybrid": "qwen3_5_text", "keys of others": "gemma3n_text"}
SETTINGS = ReplySettings(temperature=0.9, max_new_tokens=12, seed=3)

Load = Callable[[str], LoadedModels]


@pytest.fixture(scope="module")
def models_of(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Two models of a kind, that no token ends."""

    def made(kind: str) -> LoadedModels:
        folders = [tmp_path_factory.getbasetemp() / "chats" / f"{kind}-{n}" for n in (0, 1)]
        for seed, folder in enumerate(folders):
            if not folder.exists():
                torch.manual_seed(seed)
                save(kind, folder, tiny_models.tokenizer())
        student, teacher = map(str, folders)
        config = parse({"device": str(DEVICE), "student": student, "teacher": teacher})
        models = load_models(config, None, Callbacks())
        return replace(models, pair=replace(models.pair, eos_ids=()))

    return made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens of a prompt models are given to read at once, toy prompts left out."""
    lengths: list[int] = []

    def noting(module, name, at):
        forward = getattr(module, name)

        def noted(*given, **more):
            if given[at].shape[1] > 4:
                lengths.append(given[at].shape[1])
            return forward(*given, **more)

        monkeypatch.setattr(module, name, noted)

    noting(decoder, "_read", 2)
    noting(fast_decoder.FastDecoder, "_read", 1)
    return lengths


def written(models, author, prompt, prefixes=None, settings=SETTINGS) -> Reply:
    writer = ReplyWriter(models, author, prompt, settings, prefixes)
    while writer.turn():
        pass
    writer.close()
    return writer.reply


def assert_same(actual: Reply, expected: Reply) -> None:
    assert actual.ids == expected.ids
    assert [c[0] for c in actual.teacher_choices] == [c[0] for c in expected.teacher_choices]
    for name in ("student", "teacher", "reverse_kl"):
        near(getattr(actual, name), getattr(expected, name))
    for a, b in zip(actual.teacher_choices, expected.teacher_choices, strict=True):
        near(a[1:], b[1:])


def near(actual, expected) -> None:
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), rtol=0, atol=NEAR)


def assert_as_one_pass(models: LoadedModels, reply: Reply, temperature: float = 0.9) -> None:
    """Against one forward pass of each model over prompt and reply."""
    ids = torch.tensor([[*reply.prompt_ids, *reply.ids[:-1]]], device=DEVICE)
    with torch.no_grad():
        p, q = (
            divergences.log_probs(
                model(ids, use_cache=False).logits[0, len(reply.prompt_ids) - 1 :].float(),
                temperature,
            )
            for model in (models.pair.student, models.pair.teacher)
        )
    at = torch.tensor(reply.ids, device=DEVICE)
    near(reply.student, divergences.at(p, at).tolist())
    near(reply.teacher, divergences.at(q, at).tolist())
    near(reply.reverse_kl, divergences.reverse_kl(p, q).tolist())
    assert [c[0] for c in reply.teacher_choices] == q.argmax(-1).tolist()


@pytest.mark.parametrize("kind", CUT_BACK.values(), ids=CUT_BACK)
def test_a_next_turn_reads_only_what_is_new(models_of: Load, read: list[int], kind: str) -> None:
    models, chat = models_of(kind), ChatPrefixes()
    first = {author: written(models, author, FIRST, chat) for author in ("student", "teacher")}
    assert read == [40, 40], "the teacher's reply is to the same prompt"
    read.clear()
    for token, (author, reply) in enumerate(first.items(), start=50):
        second = (*FIRST, *reply.ids, *[token] * 5)
        followed = written(models, author, second, chat)
        assert len(read) == 2 and set(read) <= {5, 6}, "the message, and the token written last"
        assert_same(followed, written(models, author, second))
        assert_as_one_pass(models, followed)
        read.clear()
    models.close()


@pytest.mark.parametrize("kind", ["qwen3", "gemma3_text"])
def test_a_turn_is_written_again(models_of: Load, read: list[int], kind: str) -> None:
    models, chat = models_of(kind), ChatPrefixes()
    for settings in (SETTINGS, replace(SETTINGS, seed=4), replace(SETTINGS, temperature=0)):
        again = written(models, "student", FIRST, chat, settings)
        assert_same(again, written(models, "student", FIRST, settings=settings))
    assert sum(read) == 40 * 2 * 4, "once for the chat"
    changed = (*FIRST[:30], 60, *FIRST[31:])
    assert_same(written(models, "student", changed, chat), written(models, "student", changed))
    assert read[-4:] == [10, 10, 40, 40]
    models.close()


def test_replies_that_are_written_at_once_share_their_prompt(
    models_of: Load, read: list[int]
) -> None:
    models, chat = models_of("granite"), ChatPrefixes()
    writers = [ReplyWriter(models, a, FIRST, SETTINGS, chat) for a in ("student", "teacher")]
    going = list(writers)
    while going:
        going = [writer for writer in going if writer.turn()]
    assert read == [40, 40]
    for writer in writers:
        writer.close()
        assert_same(writer.reply, written(models, writer.reply.author, FIRST))
    models.close()


@pytest.mark.parametrize("kind", READ_WHOLE.values(), ids=READ_WHOLE)
def test_what_cannot_be_cut_back_is_read_again(models_of: Load, kind: str) -> None:
    models, chat = models_of(kind), ChatPrefixes()
    reply = written(models, "student", FIRST, chat)
    second = (*FIRST, *reply.ids, 50, 51, 52)
    assert chat.longest("student", second) == chat.longest("teacher", second) == []
    followed = written(models, "student", second, chat)
    assert_same(followed, written(models, "student", second))
    assert_as_one_pass(models, followed)
    models.close()


def test_a_model_that_does_not_read_on_reads_again(
    models_of: Load, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    models, chat = models_of("granite"), ChatPrefixes()
    forward = decoder._read
    # at positions that are not its own
    monkeypatch.setattr(decoder, "_read", lambda m, c, i, start=0: forward(m, c, i, 0))
    reply = written(models, "student", FIRST, chat)
    assert chat.longest("student", (*FIRST, 50)) == []
    assert_as_one_pass(models, written(models, "student", (*FIRST, *reply.ids, 50), chat))
    models.close()


def test_two_chats_at_once_read_for_themselves(models_of: Load, read: list[int]) -> None:
    models, kept = models_of("granite"), ReadPrefixes()
    writers = [ReplyWriter(models, "student", FIRST, SETTINGS, kept.of(chat)) for chat in "ab"]
    for _ in range(SETTINGS.max_new_tokens):
        for writer in writers:
            writer.turn()
    assert read == [40] * 4
    for writer in writers:
        writer.close()
    assert_same(writers[0].reply, writers[1].reply)
    second = (*FIRST, 60, 61, 62, 63, 64)
    for chat in "ab":
        assert_same(
            written(models, "student", second, kept.of(chat)), written(models, "student", second)
        )
    models.close()


def test_a_reading_that_failed_is_not_gone_on_from(
    models_of: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, chat = models_of("granite"), ChatPrefixes()
    writer = ReplyWriter(models, "student", FIRST, SETTINGS, chat)
    writer.turn()
    step = decoder.ModelDecoder.step

    def half_read(self, *given):
        step(self, *given)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(decoder.ModelDecoder, "step", half_read)
        writer.turn()
    writer.close()
    assert chat.longest("student", (*FIRST, 60)) == []
    assert_same(written(models, "student", FIRST, chat), written(models, "student", FIRST))
    models.close()


@pytest.mark.parametrize("author", ["student", "teacher"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_no_reply(author, temperature):
    models = load_models(parse({}), None, Callbacks())
    for weights in getattr(models.pair, author).parameters():
        weights.data.fill_(float("nan"))
    settings = ReplySettings(temperature=temperature, max_new_tokens=4, seed=0)
    writer = ReplyWriter(models, author, (5, 6, 7), settings)
    with pytest.raises(UserError, match="are NaN while it writes") as caught:
        writer.turn()
    assert (caught.value.where, caught.value.kind) == (author, "nan loss")
    writer.close()
    models.close()
