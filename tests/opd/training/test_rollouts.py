"""Given completions and scored texts become the ids of their chat: one end, in context."""

import json
from pathlib import Path
from typing import Any

import pytest

from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.errors import UserError
from opd.models.encoding import text_ids
from opd.models.load import Pair, load_pair
from opd.sampling.sample import NEVER
from opd.training.rescore import score_rollouts
from opd.training.rollouts import Completion, Writer, write
from tests.opd.interchange.test_jsonl import read_rollouts, written
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]{% else %}"
    " {{ m.content }}</turn>\n{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("models")
    path = tiny_models.save_model(folder / "student", eos=[0])
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": ["</turn>"]})
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(path)
    return load_pair(path, path, device=DEVICE)


def completions(pair: Pair, folder: Path, *texts: str, **prompts: Any) -> list[Completion]:
    path = folder / "rows.jsonl"
    rows = [{"prompt": "3 + 4 =", "completion": text, "answer": "7"} for text in ["x", *texts]]
    path.write_text("\n".join(map(json.dumps, rows)))
    settings: dict[str, Any] = {
        "objective": "sft",
        "sampling": {"source": "given"},
        "prompts": {"source": str(path), "eval_source": str(path), "grader": "exact", **prompts},
    }
    config = parse(settings)
    made = load_prompts(config, pair.tokenizer, 512).train[1:]
    return write(Writer(pair, config), made, step=1, stop=NEVER)


@pytest.mark.parametrize("end", ["", "</turn>", "</turn>\n", "</turn>\n<eos>"])
def test_a_given_reply_is_what_the_template_writes_with_one_end(
    pair: Pair, tmp_path: Path, end: str
) -> None:
    [made] = completions(pair, tmp_path, "7" + end, chat=True)
    assert pair.tokenizer.decode(made.sample.completion_ids) == " 7</turn>"
    assert made.text == "7" and made.reward == 1
    assert made.prompt.text == "<s>[INST] 3 + 4 = [/INST]"


def test_a_given_plain_text_keeps_an_end_of_its_own(pair: Pair, tmp_path: Path) -> None:
    plain, ended = completions(pair, tmp_path, "7", "7<eos>")
    assert pair.tokenizer.decode(plain.sample.completion_ids) == "7</turn>"
    assert pair.tokenizer.decode(ended.sample.completion_ids) == "7<eos>"
    assert ended.text == "7"


def test_a_completion_of_only_an_end_is_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty completion"):
        completions(pair, tmp_path, "<eos>")


@pytest.mark.parametrize(
    ("completion", "finish", "ids"),
    [
        ("7", "stop", "7</turn>"),
        ("7</turn>\n", "stop", "7</turn>"),
        ("7</turn>\n<eos>", "stop", "7</turn>"),
        ("7", "length", "7"),
        ("a</turn>b", "stop", "a</turn>b</turn>"),
    ],
)
def test_a_scored_text_ends_once(
    pair: Pair, tmp_path: Path, completion: str, finish: str, ids: str
) -> None:
    line = {"prompt": "<s>3 + 4 =", "completion": completion, "finish_reason": finish}
    source = read_rollouts(written(tmp_path / "in.jsonl", line))
    [scored] = score_rollouts(pair, source, temperature=None, top_k=2)
    assert scored.record.completion_ids.tolist() == text_ids(pair.tokenizer, ids)
    assert scored.prompt_ids.tolist() == text_ids(pair.tokenizer, "<s>3 + 4 =")
