"""Whether a run's update is compiled, where no setting says so.

By the run's length alone, so that one that resumes computes as it began.
"""

from collections.abc import Callable

from opd.config.run import RunConfig
from opd.models.compilation import Compilation
from opd.models.cost import model_cost, scoring_flops, training_passes
from opd.models.load import Pair
from opd.teachers.routing import TeacherRouter

# On an H100 updates of 0.4 PFLOP each took 1 s less, after a start of 36 s (bench/RESULTS.md).
WORTH = 1e17  # FLOPs of all updates, with completions of full length: most are shorter


def compilation_of(
    config: RunConfig, pair: Pair, judges: TeacherRouter, say: Callable[[str], None]
) -> Compilation | None:
    """None where nothing is compiled."""
    compiles = config.optimizer.compile
    if compiles is None:
        compiles = pair.device.type == "cuda" and update_flops(config, pair, judges) > WORTH
    return Compilation(say) if compiles else None


def update_flops(config: RunConfig, pair: Pair, judges: TeacherRouter) -> float:
    """Of all steps at most, without the prompts: the student's passes and its dearest teacher's."""
    rows = config.steps * config.sampling.prompts_per_step * config.sampling.group_size
    length = config.sampling.max_new_tokens
    models = {id(t.model): t.model for t in judges.teachers.values() if t.model is not None}
    teacher = max((scoring_flops(model_cost(m), [length]) for m in models.values()), default=0.0)
    student = scoring_flops(model_cost(pair.student), [length])
    return rows * (training_passes(config) * student + teacher)
