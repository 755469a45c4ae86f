"""Estimates of memory against what transformers, torch and peft really hold."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from opd.config.models import LoraConfig
from opd.config.run import RunConfig, parse
from opd.doctor import memory
from opd.doctor.memory import estimate
from opd.doctor.memory_parts import Estimate
from opd.models import forward
from opd.models.architecture import (
    PUBLISHED,
    Architecture,
    architecture_of,
    folder_at_hand,
    from_config,
)
from opd.models.folders.adapters import keep_inputs, with_adapter
from opd.training.loading import Callbacks, load
from tests.support.devices.rank_processes import on_ranks
from tests.support.tiny_models import KINDS, config, save_model

BILLION = 1e9


def part(memory: Estimate, name: str) -> float:
    [value] = [p.bytes for p in memory.parts if p.name == name]
    return value


def run(**settings: Any) -> RunConfig:
    return parse(settings)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_parameters_of_their_models(name: str) -> None:
    shape = PUBLISHED[name]
    whole = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(whole)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert from_config(whole.to_dict()) == Architecture(
        **{**shape.__dict__, "context": whole.max_position_embeddings}
    )


def test_the_8b_has_eight_billion() -> None:
    assert PUBLISHED["Qwen/Qwen3-8B"].parameters == 8_190_735_360


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_counted_exactly_by_its_headers(kind: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / kind, kind)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = architecture_of(folder, where="student.model")
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.hidden, shape.vocab) == (2, 32, 310)


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_shape_without_its_weights_has_the_same_count(kind: str) -> None:
    model = AutoModelForCausalLM.from_config(config(kind, 310))
    shape = from_config(model.config.to_dict())
    assert shape is not None and shape.stored is None
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_the_context_is_what_a_run_takes_for_it() -> None:
    shape = from_config(config("qwen3", 310).to_dict() | {"keep_window_size": 128})
    assert shape is not None and shape.context == 128


def test_what_is_not_on_this_disk_has_no_shape(tmp_path: Path) -> None:
    assert architecture_of("nobody/has-this", where="student.model") is None
    assert folder_at_hand("run-abcdefgh", where="student.model") is None
    assert from_config({"model_type": "bert"}) is None
    memory = estimate(run(student="nobody/has-this", teacher="nobody/nor-that"))
    assert memory.unknown == ["student.model", "teacher.model"]
    assert memory.parts == []


def test_a_model_in_the_hub_cache_is_found_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(save_model(tmp_path / "cached"))
    monkeypatch.setattr(
        "opd.models.architecture.try_to_load_from_cache",
        lambda repo, name: str(folder / name),
        raising=True,
    )
    assert folder_at_hand("some/model", where="student.model") == folder


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_weights_gradients_and_moments_are_what_a_step_leaves(lora: Any, tmp_path: Path) -> None:
    """Exact: one update of a real model, then count."""
    folder = save_model(tmp_path / "student")
    settings = run(
        student={"model": folder, "lora": lora},
        teacher={"kind": "none"},
        objective="sft",
        sampling={"source": "given"},
    )
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    if lora:
        model = with_adapter(model, LoraConfig(**lora))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    memory = estimate(settings)
    held = sum(p.nbytes for p in model.parameters())
    adapter = part(memory, "adapter") if lora else 0
    assert part(memory, "student's weights") + adapter == held
    assert part(memory, "gradients") == sum(p.grad.nbytes for p in trained)
    moments = sum(v.nbytes for s in optimizer.state.values() for v in s.values() if v.ndim)
    assert part(memory, "optimizer's moments") == moments


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, {"rank": 4}, {"rank": 4, "targets": ["q_proj", "up_proj"]}])
def test_the_copy_that_is_sampled_from_is_as_large_as_planned(
    dtype: str, lora: Any, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "student")
    settings = run(
        student={"model": folder, "dtype": dtype, "lora": lora}, teacher={"kind": "self"}
    )
    made = load(settings, None, Callbacks()).pair.sampling_copy
    planned = [p.bytes for p in estimate(settings).parts if p.name == "copy that is sampled from"]
    assert planned == ([] if made is None else [made.bytes])
    assert (made is None) == (lora is None and dtype == "float32")


@pytest.mark.parametrize(("dtype", "adapter"), memory.KEPT)
def test_activations_are_what_the_backward_pass_keeps(dtype: str, adapter: bool) -> None:
    """Saved tensors of real layers, the difference of 6 and 3 layers, within 12%."""
    three, six = (_saved(layers, dtype, adapter) for layers in (3, 6))
    a, b, c = memory.KEPT[dtype, adapter]
    layer = a * 384 + b * (4 + 2) * 64 + c * 128
    assert (six - three) / 3 / (4 * 512) == pytest.approx(layer, rel=0.12)


def _saved(layers: int, dtype: str, adapter: bool) -> int:
    computes = getattr(torch, dtype)
    shape = Qwen3Config(
        vocab_size=200,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
    )
    model: Any = AutoModelForCausalLM.from_config(shape).eval().to(computes)
    if adapter:
        model = with_adapter(model, LoraConfig(rank=8)).get_base_model()
    if dtype == "bfloat16":
        keep_inputs(model)
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    ids = torch.randint(0, 200, (4, 512))
    with (
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16" and adapter),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t),
    ):
        model.get_decoder()(input_ids=ids, use_cache=False)
    return sum(seen.values())


def test_pieces_of_the_vocabulary_are_those_of_the_forward_pass() -> None:
    assert memory.CHUNK_VALUES == forward.CHUNK_VALUES


def test_full_and_adapter_of_an_8b() -> None:
    full = estimate(
        run(
            student="Qwen/Qwen3-8B",
            teacher={"kind": "none"},
            objective="sft",
            sampling={"source": "given"},
        )
    )
    assert part(full, "student's weights") == 4 * 8_190_735_360
    assert part(full, "optimizer's moments") == 8 * 8_190_735_360
    adapter = run(
        student={"model": "Qwen/Qwen3-8B", "dtype": "bfloat16", "lora": {"rank": 32}},
        teacher={"kind": "self"},
    )
    memory = estimate(adapter)
    assert part(memory, "student's weights") == 2 * 8_190_735_360
    shape = PUBLISHED["Qwen/Qwen3-8B"]
    assert part(memory, "adapter") == 4 * shape.adapter(32)
    assert not any(p.name.startswith("teacher") for p in memory.parts), (
        "the adapter is switched off"
    )
    assert shape.adapter(32, ["q_proj"]) == 36 * 32 * (4096 + 4096)


def test_the_adapter_is_counted_as_peft_makes_it() -> None:
    model = AutoModelForCausalLM.from_config(config("qwen3", 310))
    shape = from_config(model.config.to_dict())
    assert shape is not None
    for targets in ("all-linear", ["q_proj", "down_proj"]):
        made = with_adapter(
            AutoModelForCausalLM.from_config(config("qwen3", 310)),
            LoraConfig(rank=4, targets=targets),
        )
        assert shape.adapter(4, targets) == sum(
            p.numel() for p in made.parameters() if p.requires_grad
        )


def test_second_copies_of_the_student() -> None:
    count = architecture_of("bundled/student", where="")
    assert count is not None
    itself = estimate(run(teacher={"kind": "self"}))
    assert part(itself, "teacher: the student's start") == 4 * count.parameters
    average = estimate(run(teacher={"kind": "ema"}))
    assert part(average, "teacher: moving average") == 4 * count.parameters
    grpo = run(objective={"name": "grpo", "reference_kl": 0.1}, teacher={"kind": "none"})
    assert part(estimate(grpo), "reference: the student's start") == 4 * count.parameters


def test_quantized_and_offloaded_teachers() -> None:
    shape = PUBLISHED["Qwen/Qwen3-8B"]
    outside = shape.parameters - shape.in_linears
    teacher = {"model": "Qwen/Qwen3-8B", "dtype": "bfloat16"}
    four = estimate(run(teacher={**teacher, "quantize": "int4"}))
    assert part(four, "teacher: weights") == pytest.approx(
        shape.in_linears * (0.5 + 4 / 64) + outside * 2
    )
    whole, aside = (
        estimate(run(teacher=teacher)),
        estimate(run(teacher={**teacher, "offload": True})),
    )
    assert aside.lasting < whole.lasting - 14 * BILLION
    assert aside.host > 15 * BILLION - 2 * shape.embedding
    assert aside.device <= whole.device


def test_a_teacher_that_writes_holds_a_cache_as_a_student_of_its_size_does() -> None:
    big = {"model": "Qwen/Qwen3-8B", "dtype": "bfloat16"}
    sampled = part(estimate(run(student=big)), "keys and values of sampling")
    for settings in ({"objective": "sft"}, {"sampling": {"teacher_share": 0.5}}):
        memory = estimate(run(teacher=big, **settings))
        assert part(memory, "teacher: keys and values") == sampled
        assert memory.device >= memory.lasting + sampled
        aside = estimate(run(teacher={**big, "offload": True}, **settings))
        assert part(aside, "teacher: weights, while writing") > 14 * BILLION
        assert aside.lasting < aside.device - 14 * BILLION - sampled
    assert not any("keys" in p.name and "teacher" in p.name for p in estimate(run()).parts)


def test_one_model_for_two_routes_is_counted_once() -> None:
    routes = {"a": "bundled/teacher", "b": {"kind": "self"}}
    memory = estimate(run(teacher={"model": "bundled/teacher", "route_by": "x", "routes": routes}))
    names = [p.name for p in memory.parts]
    assert "teacher: weights" in names and "teacher.routes.a: weights" not in names
    assert "teacher.routes.b: the student's start" in names


def test_the_largest_phase_decides() -> None:
    memory = estimate(run(sampling={"max_new_tokens": 100_000, "batch_size": 128}))
    cache = part(memory, "keys and values of sampling")
    assert memory.device == memory.lasting + max(cache, memory.device - memory.lasting)
    small = estimate(run(optimizer={"micro_batch_tokens": 64}))
    assert small.device < estimate(run()).device
    again = estimate(run(student={"gradient_checkpointing": True}))
    assert part(again, "activations, recomputed") < part(estimate(run()), "activations")


def test_known_prompts_replace_the_assumption() -> None:
    cache = [
        part(estimate(run(), prompt_tokens=n), "keys and values of sampling") for n in (20, 400)
    ]
    assert cache[0] < cache[1]
    limited = run(prompts={"max_prompt_tokens": 20})
    assert estimate(limited).device == estimate(run(), prompt_tokens=20).device


def test_it_is_plain_json() -> None:
    data = json.loads(json.dumps(estimate(run()).as_dict()))
    assert data["device"] > 0 and data["host"] == 0 and data["unknown"] == []
    assert {"name", "bytes", "phase", "where", "formula"} == set(data["parts"][0])


def test_bfloat16_weights_take_half_of_everything_that_lasts() -> None:
    """8 bytes a parameter in place of 16, and no copy of them."""
    full = {"model": "Qwen/Qwen3-8B", "dtype": "bfloat16"}
    wide, narrow = (estimate(run(student=full | w)) for w in ({}, {"weights": "bfloat16"}))
    for name in ("student's weights", "gradients", "optimizer's moments"):
        assert part(narrow, name) == part(wide, name) / 2
    assert part(wide, "copy that is sampled from") == part(narrow, "student's weights")
    assert "copy that is sampled from" not in [p.name for p in narrow.parts]


def test_what_a_run_holds_at_least_leaves_out_what_it_can_do_without() -> None:
    memory = estimate(run(student={"dtype": "bfloat16"}))
    by_name = {part.name: part.bytes for part in memory.parts}
    certain = ("student's weights", "optimizer's moments", "gradients", "teacher: weights")
    assert memory.least == pytest.approx(sum(by_name[name] for name in certain))
    assert by_name["copy that is sampled from"] > 0
    assert estimate(run(teacher={"offload": True})).least < estimate(run()).least


def test_of_layers_that_are_cut_each_process_holds_its_part() -> None:
    """Against the formulas: what stands around the layers is whole, one layer is put together."""
    model = architecture_of("Qwen/Qwen3-8B", where="x")
    assert model is not None
    one = estimate(run(student="Qwen/Qwen3-8B", teacher="Qwen/Qwen3-8B"))
    cut = estimate(
        run(student="Qwen/Qwen3-8B", teacher="Qwen/Qwen3-8B", devices=4, sharding="full")
    )
    around = 2 * model.embedding + model.hidden
    inside = model.parameters - around
    for name in ("student's weights", "gradients", "teacher: weights"):
        assert part(cut, name) == pytest.approx((around + inside / 4) * 4.0), name
    assert part(cut, "optimizer's moments") == pytest.approx((around + inside / 4) * 8.0)
    assert part(cut, "layer put together") == pytest.approx(2 * inside / 36 * 4.0)
    assert part(cut, "copy that is sampled from") == pytest.approx(inside * 4.0)
    assert cut.lasting < 0.65 * one.lasting and cut.host > one.host == 0


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_what_is_cut_is_what_a_process_holds(tmp_path: Path, lora: Any) -> None:
    """The parts of two processes of the bundled pair, counted."""
    student: dict[str, Any] = {"lora": lora} if lora else {}
    config = run(student=student, devices=2, sharding="full", device="cpu", threads=1)
    answers = on_ranks(2, partial(held, config=config), tmp_path / "r")
    planned = estimate(config)
    for numbers in answers:
        assert not isinstance(numbers, Exception), (tmp_path / "r" / "log").read_text()
        assert part(planned, "teacher: weights") == pytest.approx(numbers["teacher"], rel=0.01)
        trained = part(planned, "adapter") if lora else part(planned, "student's weights")
        assert trained == pytest.approx(numbers["trained"], rel=0.03)


def held(ranks: Any, *, config: RunConfig) -> dict[str, int]:
    """Bytes of the teacher's weights, and of what is trained, in this process."""
    loaded = load(config, None, Callbacks(), ranks)
    teacher = [getattr(p, "_local_tensor", p) for p in loaded.pair.teacher.parameters()]
    sizes = {"teacher": teacher, "trained": loaded.learner.trained}
    return {name: sum(4 * p.numel() for p in parts) for name, parts in sizes.items()}
