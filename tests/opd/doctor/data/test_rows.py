"""What the doctor says of rows: their form, those that stand twice, what the template ignores."""

import json

from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.doctor.data.rows import check_data
from tests.support import tiny_models

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


def findings(tmp_path, rows, held_out, **prompts):
    for name, part in (("train", rows), ("eval", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = PLAIN
    source = {"source": str(tmp_path / "train.jsonl"), "eval_source": str(tmp_path / "eval.jsonl")}
    loaded = load_prompts(parse({"prompts": source | prompts}), tokenizer, 256)
    return {f.code: f for f in check_data(loaded, tokenizer)}


def test_rows_that_stand_twice(tmp_path):
    rows = [{"prompt": p} for p in ("a", "b", "B")]
    said = findings(tmp_path, rows, [{"prompt": "A"}])
    assert said["train-in-evaluation"].severity == "warning"
    assert said["train-in-evaluation"].title == (
        "1 training prompts also stand in the held-out prompts"
    )
    assert "train.jsonl:1 as " in said["train-in-evaluation"].text
    assert said["train-repeats"].evidence == {"count": 1}
    kept = findings(tmp_path, rows, [{"prompt": "A"}], exclude_evaluation=True)
    assert kept["train-in-evaluation"].severity == "ok"
    assert set(findings(tmp_path, rows[:2], [{"prompt": "z"}])) == {"data-form"}


def test_what_the_template_does_not_read(tmp_path):
    chat = [{"role": "user", "content": "a"}]
    rows = [{"messages": chat, "tools": [{"name": "f"}]}]
    said = findings(tmp_path, rows, [{"messages": chat}], template_args={"effort": "low"})
    assert said["data-form"].title.endswith("read as messages")
    assert said["template-ignores"].severity == "warning"
    assert said["template-ignores"].title == "The chat template does not read tools"
