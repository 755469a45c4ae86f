"""The first row of a run."""

from typing import Any

from opd.config.paths import with_absolute_paths
from opd.config.recipes import Core, run_name
from opd.config.run import RunConfig
from opd.config.wording import teacher_name
from storage.lookups import new_id
from storage.text import clean


def new_row(config: RunConfig, *, recipe: str, source: str) -> dict[str, Any]:
    """Of a run that is queued, or of an import; without its times and who waits for it."""
    imported = source == "import"
    stored = config if imported else with_absolute_paths(config)
    return {
        "id": new_id("run"),
        "name": run_name(clean(config.name), recipe, Core.of(config)),
        "status": "finished" if imported else "queued",
        "source": source,
        "hidden": imported,
        "recipe": recipe,
        "student": clean(config.student.model),
        "teacher": clean(teacher_name(config.teacher)),
        "objective": config.objective.name,
        "seed": config.seed,
        "steps": config.steps,
        "device": config.device,
        "config": stored.model_dump(mode="json"),
        **{name: {} for name in ("resolved", "versions", "parameters", "scales")},
        **dict.fromkeys(
            ("notes", "loaded_device", "tokenizer", "phase", "error_kind", "error_text", "hint"), ""
        ),
        **dict.fromkeys(("attempt", "seconds", "step", "tokens", "flops", "bytes"), 0),
    }
