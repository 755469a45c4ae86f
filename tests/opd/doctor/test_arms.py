"""The doctor on an experiment: its arms, with what stands for runs, and what all runs take."""

from typing import Any

import pytest

from opd.config.run import parse
from opd.doctor import pace as paces
from opd.doctor.arms import check_arm, counted, examine_experiment, stand_ins
from opd.doctor.findings import Finding
from opd.doctor.memory import estimate
from opd.doctor.pace import ADAPTED, BANDWIDTH, EFFICIENCY, LAYER, PEAK, duration, pace
from opd.experiments.definition import Experiment, parse_experiment
from opd.models.architecture import PUBLISHED
from tests.support.experiment_definition import data, definition

pytestmark = pytest.mark.device

SMALL, LARGE = PUBLISHED["Qwen/Qwen3-0.6B"], PUBLISHED["Qwen/Qwen3-4B"]


def run(**changes: Any) -> Any:
    """128 answers of 100 tokens at most to prompts of 60, without an evaluation worth counting."""
    return parse(
        {
            "student": "Qwen/Qwen3-0.6B",
            "teacher": "Qwen/Qwen3-4B",
            "steps": 10,
            "prompts": {"probe": 0},
            "sampling": {"max_new_tokens": 100, "batch_size": 64},
            "evaluation": {"prompts": 1, "temperatures": [1.0]},
            **changes,
        }
    )


def step(**changes: Any) -> float:
    measured = pace(run(**changes), prompt_tokens=60)
    assert measured is not None
    return measured.step


def flops(shape: Any, times: float) -> float:
    """Of reading 128 rows of 160 tokens so many times over."""
    attention = 4.0 * shape.layers * shape.heads * shape.head_dim * 160 * 161 / 2
    return times * 128 * (2.0 * shape.matrices * 160 + attention)


def test_a_step_by_hand() -> None:
    sampling = 2 * 100 * SMALL.layers * LAYER
    work = flops(SMALL, 3) + flops(LARGE, 1)
    assert step() == pytest.approx(sampling + work / (PEAK * EFFICIENCY), rel=1e-12)


def test_what_makes_a_step_longer() -> None:
    bare = 2 * 100 * SMALL.layers * LAYER
    rate = PEAK * EFFICIENCY
    adapted = {"model": "Qwen/Qwen3-0.6B", "lora": {}, "gradient_checkpointing": True}
    grpo = {"objective": "grpo", "teacher": {"kind": "none"}}
    assert step(**grpo) == pytest.approx(bare + flops(SMALL, 3) / rate)
    assert step(**grpo, student=adapted) == pytest.approx(bare + flops(SMALL, 3) / rate)
    quantized = adapted | {"quantize": "int8"}
    assert step(**grpo, student=quantized) == pytest.approx(bare * ADAPTED + flops(SMALL, 3) / rate)
    itself = {"teacher": {"kind": "self"}}
    assert step(**itself) == pytest.approx(bare + flops(SMALL, 4) / rate)
    written = 2 * 100 * LARGE.layers * LAYER
    assert step(objective="sft") == pytest.approx(written + flops(SMALL, 3) / rate)
    mixed = {"teacher_share": 0.5, "max_new_tokens": 100, "batch_size": 64}
    mixed |= {"prompts_per_step": 128, "group_size": 1}
    assert step(sampling=mixed) == pytest.approx(
        bare + written + (flops(SMALL, 3) + flops(LARGE, 1)) / rate
    )
    routed = {"model": "Qwen/Qwen3-0.6B", "route_by": "x", "routes": {"a": "Qwen/Qwen3-4B"}}
    assert step(teacher=routed) == step(), "the largest teacher counts"
    given = {"source": "given", "max_new_tokens": 100, "prompts_per_step": 128, "group_size": 4}
    assert step(objective="sft", sampling=given, teacher={"kind": "none"}) == pytest.approx(
        flops(SMALL, 3) / rate
    ), "nobody samples, one completion a prompt"


def test_large_batches_wait_for_the_memory() -> None:
    sampling = {"max_new_tokens": 1000, "batch_size": 1024, "prompts_per_step": 1024}
    grpo = {"objective": "grpo", "teacher": {"kind": "none"}}
    rows = 1024 * 4
    attention = 4.0 * SMALL.layers * SMALL.heads * SMALL.head_dim * 1060 * 1061 / 2
    work = 3 * rows * (2.0 * SMALL.matrices * 1060 + attention) / (PEAK * EFFICIENCY)
    held = SMALL.matrices * 4 + 1024 * 1060 * SMALL.layers * 2 * 8 * 128 * 4
    assert step(**grpo, sampling=sampling) == pytest.approx(work + 4 * 1000 * held / BANDWIDTH)


def test_evaluations_are_counted_from_before_the_first_step_to_after_the_last() -> None:
    suite = {"source": "bundled", "count": 65}
    settings = {
        "evaluation": {
            "every": 4,
            "prompts": 60,
            "samples": 2,
            "temperatures": [1.0, 0.0],
            "suites": {"always": suite, "rare": {**suite, "when": "ends"}},
        },
        "prompts": {"probe": 4},
    }
    measured = pace(run(**settings), prompt_tokens=60)
    assert measured is not None
    batches = 4 * (2 + 1) + 4 * (3 + 2) + 2 * (3 + 2)  # after steps 0, 4, 8 and 10
    by_teacher = (2 + 1) * 100 * LARGE.layers * LAYER  # once, without the probes
    by_student = batches * 100 * SMALL.layers * LAYER
    assert measured.evaluations == pytest.approx(by_student + by_teacher)
    assert measured.run == pytest.approx(10 * measured.step + measured.evaluations)


def test_there_is_no_estimate_for_processors_and_unknown_models() -> None:
    assert pace(run(device="cpu")) is None
    assert pace(run(student="nobody/knows-it")) is None
    assert pace(run(teacher="nobody/knows-it")) is None
    assert pace(run(teacher="nobody/knows-it", objective="grpo")) is not None


def test_durations_in_words() -> None:
    assert [duration(s) for s in (1.23, 600, 7200)] == ["1.2 s", "10 min", "2.0 h"]


def arm(report: dict[str, Any], name: str) -> dict[str, Any]:
    [one] = [a for a in report["arms"] if a["name"] == name]
    return dict(one)


def on_a_gpu(**changes: Any) -> Experiment:
    """The small one with Qwen3 0.6B, and a third arm that goes on from the second."""
    made = data(**changes)
    made["common"] = {"steps": 4, "student": {"model": "Qwen/Qwen3-0.6B", "lora": {}}}
    made["arms"]["more"] = {
        "label": "More",
        "config": {"student": {"model": "arm:opd"}, "teacher": "arm:rl"},
    }
    for one in made["arms"].values():
        if "sweep" in one:
            one["sweep"] = {"optimizer.learning_rate": [1e-4, 2e-4]}
            one["best"] = {"optimizer.learning_rate": 1e-4}
    return parse_experiment(made)


def test_an_arm_s_start_stands_for_its_run() -> None:
    assert stand_ins(on_a_gpu()) == dict.fromkeys(("rl", "opd", "more"), "Qwen/Qwen3-0.6B")
    report = examine_experiment(on_a_gpu(), lambda _: None)
    taught = arm(report, "opd")
    assert taught["memory"]["unknown"] == []
    assert "teacher: weights" in {p["name"] for p in taught["memory"]["parts"]}
    assert not {"nothing-to-learn", "model-of-a-run"} & {f["code"] for f in taught["findings"]}


def test_a_teacher_that_is_the_student_is_still_reported() -> None:
    made = data()
    made["arms"]["opd"]["config"] = {"teacher": {"kind": "self"}}
    experiment = parse_experiment(made)
    assert "nothing-to-learn" in {
        f.code for f in check_arm(experiment, "opd", stand_ins(experiment))
    }


def test_every_run_is_counted_with_its_own_stage_and_choice() -> None:
    experiment = on_a_gpu(tuning={"seeds": 2, "config": {"steps": 2}})
    runs = counted(experiment, stand_ins(experiment), quick=False)
    seen = [(n, c.optimizer.learning_rate, c.steps, count) for n, c, count in runs]
    assert seen == [
        *(("rl", rate, 2, 2) for rate in (1e-4, 2e-4)),
        *(("opd", rate, 2, 2) for rate in (1e-4, 2e-4)),
        *(("rl", 1e-4, 4, 2), ("opd", 1e-4, 3, 2), ("more", 1e-3, 4, 2)),
    ]
    quick = counted(experiment, stand_ins(experiment), quick=True)
    assert [(n, c.evaluation.prompts, count) for n, c, count in quick] == [
        (n, 9, 1) for n in ("rl", "opd", "more")
    ]


def test_the_whole_is_the_sum_of_its_runs_and_the_largest_memory() -> None:
    made = on_a_gpu()
    report = examine_experiment(made, lambda _: None)
    hours = 0.0
    sizes = []
    for _, config, count in counted(made, stand_ins(made), quick=False):
        one = pace(config)
        assert one is not None
        hours += one.run * count / 3600
        sizes.append(estimate(config).device)
    assert report["full"] == {"runs": 10, "hours": pytest.approx(hours)}
    assert report["quick"]["runs"] == 3 and report["quick"]["hours"] < hours
    assert report["memory"]["device"] == round(max(sizes))
    assert report["ok"] is True


def test_on_a_processor_there_are_no_hours() -> None:
    report = examine_experiment(definition(), lambda _: None)
    assert report["full"] == {"runs": 8, "hours": None}
    assert arm(report, "rl")["seconds"] is None
    assert report["memory"]["device"] == max(a["memory"]["device"] for a in report["arms"])


def test_missing_inputs_are_an_error_of_their_arm() -> None:
    tuned = {"config": {"prompts": {"source": "/no/such/file.jsonl"}}}
    report = examine_experiment(definition(tuning=tuned), lambda _: None)
    assert report["ok"] is False
    assert [f["code"] for f in arm(report, "rl")["findings"]] == ["inputs-refused"]
    assert "/no/such/file.jsonl" in arm(report, "rl")["findings"][0]["text"]


def test_the_pace_of_a_slower_layer_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    before = step()
    monkeypatch.setattr(paces, "LAYER", 2 * LAYER)
    assert step() > before


def test_a_finding_is_the_arm_s_own() -> None:
    made = data()
    made["arms"]["opd"]["best"] = {"optimizer.learning_rate": 0.5}
    made["arms"]["opd"]["sweep"] = {"optimizer.learning_rate": [0.5]}
    experiment = parse_experiment(made)
    codes: dict[str, list[Finding]] = {
        n: [f for f in check_arm(experiment, n, stand_ins(experiment)) if f.code == "learning-rate"]
        for n in experiment.arms
    }
    assert not codes["rl"] and len(codes["opd"]) == 1
