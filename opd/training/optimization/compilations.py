"""Whether a run's update is compiled, where no setting says so.

By the run's length alone, so that one that resumes computes as it began.
"""

from collections.abc import Callable

from opd.config.run import RunConfig
from opd.models.compilation import Compilation
from opd.models.cost import model_cost, update_flops
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
        compiles = pair.device.type == "cuda" and all_flops(config, pair, judges) > WORTH
    return Compilation(say) if compiles else None


def all_flops(config: RunConfig, pair: Pair, judges: TeacherRouter) -> float:
    """Of all steps at most, without the prompts, each read by the dearest teacher."""
    models = {id(t.model): t.model for t in judges.teachers.values() if t.model is not None}
    costs = map(model_cost, models.values())
    dearest = max(costs, key=lambda model: model.parameters, default=None)
    lengths = [config.sampling.max_new_tokens] * config.completions_per_step
    return config.steps * update_flops(config, model_cost(pair.student), dearest, lengths)
