"""What the doctor says of rows: their form, those that stand twice, what the template ignores."""

import json

from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.doctor.data.rows import check_data
from tests.support import tiny_models

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


def findings(tmp_path, rows, held_out, template=PLAIN, **prompts):
    for name, part in (("train", rows), ("eval", held_out)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = template
    source = {"source": str(tmp_path / "train.jsonl"), "eval_source": str(tmp_path / "eval.jsonl")}
    loaded = load_prompts(parse({"prompts": source | prompts}), tokenizer, 256)
    return {f.code: f for f in check_data(loaded, tokenizer)}


def test_rows_that_stand_twice(tmp_path):
    rows = [{"prompt": p} for p in ("a", "b", "B")]
    said = findings(tmp_path, rows, [{"prompt": "A"}])
    assert said["train-in-evaluation"].severity == "warning"
    assert said["train-in-evaluation"].title == (
        "1 training prompts are also in the held-out prompts"
    )
    assert "train.jsonl:1 as " in said["train-in-evaluation"].text
    assert said["train-repeats"].evidence == {"count": 1}
    kept = findings(tmp_path, rows, [{"prompt": "A"}], exclude_evaluation=True)
    assert kept["train-in-evaluation"].severity == "ok"
    answered = [{"prompt": "z", "answer": "1"}] * 200
    assert set(findings(tmp_path, rows[:2], answered, probe=0)) == {"data-form"}


def test_fewer_evaluation_prompts_than_asked_for(tmp_path):
    held_out = [{"prompt": f"z{n}", "answer": "1"} for n in range(20)]
    del held_out[10]["answer"]
    said = findings(tmp_path, [{"prompt": "a"}], held_out)["evaluation-prompts"]
    assert said.severity == "warning"
    assert said.title == "15 of 200 held-out prompts are scored"
    counts = {"suite": "heldout", "asked": 200, "used": 15}
    assert said.evidence == counts | {"source": 180, "probes": 4, "no_answer": 1}
    assert "evaluation.prompts asks for 200; 180 not there: the source has only" in said.text
    assert "prompts.columns.answer" in said.advice and "prompts.probe" in said.advice
    few = findings(tmp_path, [{"prompt": "a"}], held_out[11:], probe=0)["evaluation-prompts"]
    assert few.severity == "info"
    none = [{"prompt": f"z{n}"} for n in range(20)]
    assert findings(tmp_path, [{"prompt": "a"}], none)["evaluation-prompts"].severity == "info"


def test_what_the_template_does_not_read(tmp_path):
    chat = [{"role": "user", "content": "a"}]
    rows = [{"messages": chat, "tools": [{"name": "f"}]}]
    said = findings(tmp_path, rows, [{"messages": chat}], template_args={"effort": "low"})
    assert said["data-form"].title.endswith("read as messages")
    assert said["template-ignores"].severity == "warning"
    assert said["template-ignores"].title == "The chat template does not read tools"


READS_SWITCH = PLAIN + "{% if thinking %}<think>{% endif %}{{ reasoning_effort }}{{ documents }}"


def test_columns_that_the_template_would_read(tmp_path):
    chat = [{"role": "user", "content": "a"}]
    rows = [
        {"messages": chat, "enable_thinking": False, "documents": [], "id": 7},
        {"messages": chat, "enable_thinking": True},
        {"messages": chat, "thinking": "2 and 3 make 5", "reasoning_effort": None},
    ]
    said = findings(tmp_path, rows, rows[:1], READS_SWITCH)
    assert said["unused-columns"].severity == "warning"
    assert said["unused-columns"].evidence == {
        "column": "enable_thinking",
        "section": "prompts",
        "rows": 3,
    }
    assert "prompts.template_args.enable_thinking" in said["unused-columns"].advice
    assert '{"enable_thinking": …}' in said["unused-columns"].advice
    assert "unused-columns" not in findings(tmp_path, rows, rows)
    for chosen in (
        {"template_args": {"enable_thinking": False}},
        {"thinking": True},
        {"prompt_template": "{enable_thinking} {prompt}"},
    ):
        assert "unused-columns" not in findings(
            tmp_path, rows[:2], rows[:1], READS_SWITCH, **chosen
        )


def test_a_suite_s_columns_that_the_template_would_read_are_logged(tmp_path):
    row = {"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "low"}
    source = tmp_path / "suite.jsonl"
    source.write_text(json.dumps(row) + "\n")
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = READS_SWITCH
    suites = {"hard": {"source": str(source)}}
    lines = []
    config = parse({"prompts": {"chat": True, "count": 2}, "evaluation": {"suites": suites}})
    load_prompts(config, tokenizer, 1024, lines.append)
    assert (
        "column reasoning_effort (1 row of evaluation.suites.hard) is not used, but the chat "
        "template reads a variable of that name; set "
        "evaluation.suites.hard.template_args.reasoning_effort for all rows, or give each row's "
        'value in a column chat_template_kwargs: {"reasoning_effort": …}'
    ) in lines
