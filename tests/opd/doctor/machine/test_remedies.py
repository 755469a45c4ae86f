from typing import Any, get_args

import pytest

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import parse
from opd.doctor.machine.remedies import remedies
from opd.doctor.memory import estimate
from opd.doctor.memory_parts import Phase


@pytest.mark.parametrize("phase", [None, *get_args(Phase)])
@pytest.mark.parametrize(
    "settings", [{}, {"student": {"lora": {"rank": 8}}, "teacher": {"kind": "self"}}]
)
def test_each_saves_what_it_says_and_the_first_most(
    phase: Phase | None, settings: dict[str, Any]
) -> None:
    config = parse(settings)

    def needed(data: Any) -> float:
        memory = estimate(parse(data))
        return memory.device if phase is None else memory.during(phase)

    plain = config.model_dump(mode="json")
    listed = remedies(config, phase)
    for remedy in listed:
        changed = with_overrides(plain, [f"{remedy.field}={remedy.value}"])
        assert needed(plain) - needed(changed) == pytest.approx(remedy.saves)
    assert [r.saves for r in listed] == sorted((r.saves for r in listed), reverse=True)
    assert listed if phase != "writing" else True


def test_a_run_whose_models_cannot_be_read_has_none() -> None:
    assert remedies(parse({"student": "/no/such/folder"}), None) == []
