"""What an estimate of a run's memory is made of, and its sums. Free of torch."""

from dataclasses import dataclass, field
from typing import Any, Literal

Where = Literal["device", "host"]
Phase = Literal["always", "sampling", "writing", "reading", "update"]  # writing: by a teacher


@dataclass(frozen=True)
class MemoryPart:
    name: str
    bytes: float
    formula: str
    phase: Phase = "always"
    where: Where = "device"
    certain: bool | None = None  # held at once with all that is; by default, what lasts is


@dataclass(frozen=True)
class Estimate:
    """`unknown` names the fields whose models could not be measured; their parts are missing."""

    parts: list[MemoryPart] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def lasting(self) -> float:
        """Bytes on the device from loading to the end."""
        return self._sum("device", "always")

    @property
    def least(self) -> float:
        """Bytes on the device that the run holds at once in any case: a lower bound."""
        here = (p for p in self.parts if p.where == "device")
        return sum(
            p.bytes for p in here if (p.phase == "always" if p.certain is None else p.certain)
        )

    @property
    def device(self) -> float:
        """What lasts and the largest phase."""
        phases: tuple[Phase, ...] = ("sampling", "writing", "reading", "update")
        return max(self.during(p) for p in phases)

    def during(self, phase: Phase) -> float:
        """What lasts and this phase."""
        return self.lasting + (0.0 if phase == "always" else self._sum("device", phase))

    @property
    def host(self) -> float:
        return sum(p.bytes for p in self.parts if p.where == "host")

    def as_dict(self) -> dict[str, Any]:
        return {
            "parts": [
                {
                    "name": p.name,
                    "bytes": round(p.bytes),
                    "phase": p.phase,
                    "where": p.where,
                    "formula": p.formula,
                }
                for p in self.parts
            ],
            "device": round(self.device),
            "host": round(self.host),
            "unknown": self.unknown,
        }

    def _sum(self, where: Where, phase: Phase) -> float:
        return sum(p.bytes for p in self.parts if (p.where, p.phase) == (where, phase))
