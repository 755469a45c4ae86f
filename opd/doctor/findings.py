"""What the doctor says: one finding a check, in plain words, with what to change. Free of torch."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from opd.errors import UserError

Severity = Literal["error", "warning", "info", "ok"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info", "ok")  # worst first
SHOWN = 160  # characters of a text quoted


@dataclass(frozen=True)
class Finding:
    """`text`: what was seen and why it matters; `advice`: what to change, by the field's name;
    `evidence`: figures and examples, plain data."""

    code: str
    severity: Severity
    title: str
    text: str
    advice: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "title": self.title,
            "text": self.text,
            "advice": self.advice,
            "evidence": self.evidence,
        }


def refused(code: str, title: str, error: UserError) -> Finding:
    """What a run would end with, before it starts."""
    return Finding(code, "error", title, str(error), evidence={"kind": error.kind})


def healthy(findings: Iterable[Finding]) -> bool:
    return all(f.severity != "error" for f in findings)


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: SEVERITIES.index(f.severity))


def quoted(text: str) -> str:
    """A text as evidence: its beginning, on one line, with what cannot be seen written out."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
