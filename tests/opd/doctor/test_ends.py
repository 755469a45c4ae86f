"""What the doctor says of both models' ends, from their files."""

from pathlib import Path
from typing import Any

import pytest

from opd.config.run import parse
from opd.doctor.ends import check_ends, check_student_end
from opd.doctor.findings import Finding
from opd.doctor.models import look_up
from tests.opd.doctor.test_examine import chat_folder
from tests.support.tiny_models import save_model


def compared(**settings: Any) -> dict[str, Finding]:
    models = look_up(parse(settings))
    assert models.student is not None
    teacher = models.teachers["teacher"]
    return {
        f.code: f
        for f in (*check_student_end(models.student), *check_ends(models.student, teacher))
    }


def test_a_base_student_with_its_familys_template_still_ends_with_its_own_token(
    tmp_path: Path,
) -> None:
    template = "{% for m in messages %}{{ m.content }}<pad>{% endfor %}"
    student = chat_folder(tmp_path / "s", template, eos=[0])
    teacher = chat_folder(tmp_path / "t", template, eos=[1, 0])
    finding = compared(student=student, teacher=teacher)["stops-differ"]
    assert finding.severity == "warning" and "1 (<pad>)" in finding.text
    assert "teacher.end_token: <pad>" in finding.advice
    declares = compared(student=student, teacher=student)["end-not-declared"]
    assert declares.evidence == {"template": "1 (<pad>)", "declared": ["0 (<eos>)"]}
    assert "end-not-declared" not in compared(student=teacher, teacher=student)
    assert "stops-same" in compared(student=teacher, teacher=student)


@pytest.mark.parametrize(
    ("token", "ends", "code", "severity"),
    [
        ("<pad>", [1], "end-token", "ok"),
        ("<pad>", [5], "end-token", "warning"),
        ("<eos>", [0], "end-token-unused", "info"),
        ("<|im_end|>", [1], "end-token-unknown", "error"),
    ],
)
def test_an_end_token_is_compared_with_both_vocabularies(
    tmp_path: Path, token: str, ends: list[int], code: str, severity: str
) -> None:
    student, teacher = save_model(tmp_path / "s"), save_model(tmp_path / "t", eos=ends)
    findings = compared(student=student, teacher={"model": teacher, "end_token": token})
    assert findings[code].severity == severity
    assert "stops-differ" not in findings
