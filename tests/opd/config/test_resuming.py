import pytest

from opd.config.resuming import may_change, with_changes
from opd.config.run import parse
from opd.errors import ConfigError, UserError


def test_what_decides_memory_and_device_may_change() -> None:
    stored = parse({"device": "cuda:1", "sampling": {"batch_size": 64}}).model_dump(mode="json")
    config, changes = with_changes(
        stored,
        ["optimizer.micro_batch_tokens=4096", "sampling.batch_size=64", "device=cpu"],
    )
    assert (config.optimizer.micro_batch_tokens, config.device) == (4096, "cpu")
    assert changes == [
        {"field": "device", "text": "cuda:1 → cpu"},
        {"field": "optimizer.micro_batch_tokens", "text": "empty → 4096"},
    ]
    assert parse(stored).device == "cuda:1", "what is stored is left alone"


@pytest.mark.parametrize(
    "field", ["seed", "student.lora", "sampling.max_new_tokens", "steps", "optimizer.name", "x"]
)
def test_what_decides_the_steps_may_not(field: str) -> None:
    assert not may_change(field)
    with pytest.raises(UserError, match=r"cannot change within a run.*micro_batch_tokens") as error:
        with_changes({}, [f"{field}=1"])
    assert error.value.where == f"--set {field}"


def test_a_bad_value_is_refused_by_its_field() -> None:
    with pytest.raises(ConfigError, match=r"optimizer.micro_batch_tokens.*64"):
        with_changes({}, ["optimizer.micro_batch_tokens=3"])


def test_routes_may_be_put_aside() -> None:
    stored = parse({"teacher": {"route_by": "topic", "routes": {"a": "bundled/teacher"}}})
    config, changes = with_changes(
        stored.model_dump(mode="json"), ["teacher.routes.a.offload=true"]
    )
    assert config.teacher.routes["a"].offload
    assert changes == [{"field": "teacher.routes.a.offload", "text": "False → True"}]


def test_what_is_asked_of_a_cluster_may_change() -> None:
    stored = parse({"resources": {"labels": {"accelerator": "h100"}}}).model_dump(mode="json")
    config, changes = with_changes(stored, ['resources.labels={"zone": "b"}', "resources.hours=2"])
    assert config.resources.labels == {"zone": "b"}
    assert changes == [
        {"field": "resources.hours", "text": "empty → 2.0"},
        {"field": "resources.labels.accelerator", "text": "h100 → empty"},
        {"field": "resources.labels.zone", "text": "empty → b"},
    ]
