"""docs/models.md: one row for each model type that transformers loads as a causal model."""

import json
from dataclasses import astuple, dataclass
from pathlib import Path

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bench.causal_models.checks import ModelCheck
from opd.models.tried import TRIED

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
HEADER = ("class", "model_type", "kind", "outcome", "why, or how it is read")


@dataclass(frozen=True)
class ModelRow:
    name: str
    model_type: str
    kind: str
    outcome: str  # works, refused, WRONG
    note: str

    @classmethod
    def of(cls, name: str, model_type: str, result: ModelCheck) -> "ModelRow":
        if result.faults:
            note = ", ".join(f"{what} {size:.2g}" for what, size in result.faults.items())
            return cls(name, model_type, result.kind, "WRONG", note)
        outcome = "refused" if result.refused else "works"
        return cls(name, model_type, result.kind, outcome, result.refused or result.way)

    def line(self) -> str:
        return f"| {' | '.join(astuple(self))} |"


def causal_classes() -> dict[str, str]:
    """model_type → class, as the installed transformers has them."""
    return dict(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()))


def read_rows() -> list[ModelRow]:
    """Those of the document; none where there is none."""
    if not DOCUMENT.is_file():
        return []
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    return [ModelRow(*row) for row in cells[2:]]


def write(rows: list[ModelRow]) -> None:
    """The document, and what the doctor reads of it."""
    DOCUMENT.write_text(written(rows), encoding="utf-8")
    TRIED.write_text(listed(rows), encoding="utf-8")


def listed(rows: list[ModelRow]) -> str:
    """The model types that work, as JSON."""
    works = [row.model_type for row in rows if row.outcome == "works"]
    tried = {"transformers": transformers.__version__, "works": works}
    return json.dumps(tried, indent=1) + "\n"


def written(rows: list[ModelRow]) -> str:
    """The document with these rows."""
    works = sum(row.outcome == "works" for row in rows)
    classes = len({row.name for row in rows})
    return "\n".join(
        [
            "# Models",
            "",
            "Every class that `AutoModelForCausalLM` of transformers "
            f"{transformers.__version__} loads, in a tiny form with random weights: greedy "
            "completions equal the model's own `generate` on unpadded prompts, the sampler's "
            "log-probabilities equal the student's and a float64 pass to 1e-4 nats, a batch of "
            "unequal lengths equals single rows, and one gradient step is finite. What cannot be "
            "right is refused at `student.model` before its weights are read, or when it is "
            "loaded. Written by `make test-models`.",
            "",
            f"{classes} classes, {len(rows)} model types: {works} work, {len(rows) - works} are "
            "refused.",
            "",
            "How a model is read is decided when it is loaded, by reading a few tokens in each "
            "way: *with its own cache* means that prompts of one length share a batch while "
            "sampling, so that no state sees padding; *without a cache* means that each token "
            "reads its row again (slow); *whole passes* means that logits are made for whole "
            "rows (more memory); *row by row* that nothing shares a pass. *Decoder-only folders* "
            "and *folders with is_decoder*: the same type with an encoder, or reading in both "
            "directions, is refused.",
            "",
            f"| {' | '.join(HEADER)} |",
            f"|{'---|' * len(HEADER)}",
            *(row.line() for row in rows),
            "",
        ]
    )
