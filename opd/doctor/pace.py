"""How long a run may take on one GPU, only from its settings: nothing is loaded or measured.

An upper estimate: every prompt and every answer is taken to be as long as it may be, as the memory
estimate does. Loading, checkpoints and lm-eval are not included. The GPU assumed is one of 24 GB;
the dynamic part measures the one at hand. No such GPU has been timed. On an H100, where a token is
captured and replayed, sampling took less than a fifth of what this comes to, and training reached
26% of the peak, compiled 56% (bench/RESULTS.md).
"""

from dataclasses import dataclass

from opd.config.data import PROBES
from opd.config.models import RouteConfig
from opd.config.run import RunConfig
from opd.doctor.memory import BYTES, TokenLoad
from opd.models import cost
from opd.models.architecture import Architecture, architecture_of

EFFICIENCY = 0.4  # of a bare matrix product's rate, reached by training in practice
PEAK = 165e12  # FLOPs a second in bfloat16 of a GeForce RTX 4090, by its data sheet
BANDWIDTH = 1.0e12  # bytes a second of its memory, likewise
# A token of any number of rows waits, layer by layer, for kernels that Python starts one by one.
# Source: Qwen2-0.5B, 24 layers, 49.94 tokens a second in transformers, batch of 1, on an A100;
# Qwen's documentation, v2.0, speed benchmark.
LAYER = 1 / 49.94 / 24
ADAPTED = 2.0  # an adapter that cannot be merged for sampling starts about as many again
ASSUMED = (
    f"a GPU of {PEAK / 1e12:.0f} TFLOP/s in bfloat16, of which {EFFICIENCY:.0%} are reached, "
    f"{1e3 * LAYER:.2f} ms a layer for each token that is sampled (twice that with an adapter on "
    "quantized weights), "
    "and every answer as long as it may be; not measured on such a GPU (an H100 sampled in less "
    "than a fifth of this)"
)


@dataclass(frozen=True)
class Pace:
    """Seconds."""

    step: float
    evaluations: float  # of the whole run
    steps: int

    @property
    def run(self) -> float:
        return self.step * self.steps + self.evaluations


def pace(config: RunConfig, *, prompt_tokens: int | None = None) -> Pace | None:
    """None on a processor, and where the size of a model is not known. Raises UserError."""
    if config.device == "cpu":
        return None
    student = architecture_of(config.student.model, where="student.model")
    if student is None:
        return None
    works = config.needs != "nothing" or config.teacher_writes
    teachers = _local_teachers(config, student) if works else []
    measured = [(route, model) for route, model in teachers if model is not None]
    if len(measured) < len(teachers):
        return None
    largest = max(measured, key=lambda teacher: teacher[1].parameters, default=None)
    load = TokenLoad.of(config, prompt_tokens)
    rows = config.completions_per_step
    judge = _cost(largest[1]) if config.needs != "nothing" and largest is not None else None
    flops = cost.update_flops(config, _cost(student), judge, [load.row] * rows)
    sampling = 0.0
    if config.author == "student":
        sampling = _by_student(config, student, load, rows)
    if config.teacher_writes and largest is not None:
        route, model = largest
        sampling += _decoding(config, model, load, rows, dtype=route.dtype)
    evaluations = sum(
        times * _by_student(config, student, load, answers)
        for times, answers in _evaluations(config)
    )
    if config.evaluates_teacher and largest is not None:
        route, model = largest
        answers = _answers(config, config.evaluation.prompts)
        evaluations += sum(_decoding(config, model, load, n, dtype=route.dtype) for n in answers)
    return Pace(sampling + flops / (PEAK * EFFICIENCY), evaluations, config.steps)


def _local_teachers(
    config: RunConfig, student: Architecture
) -> list[tuple[RouteConfig, Architecture | None]]:
    """The teachers on this machine, with their shapes where these are known."""
    return [
        (
            route,
            architecture_of(route.model, where=f"{name}.model")
            if route.kind == "model"
            else student,
        )
        for name, route in config.teachers.items()
        if not route.behind_server and route.kind != "none"
    ]


def _cost(model: Architecture) -> cost.ModelCost:
    return cost.ModelCost(model.matrices, model.layers, model.heads * model.head_dim)


def _by_student(config: RunConfig, student: Architecture, load: TokenLoad, rows: int) -> float:
    settings = config.student
    slower = ADAPTED if settings.lora and settings.quantize != "none" else 1.0
    return _decoding(config, student, load, rows, dtype=settings.dtype, slower=slower)


def _decoding(
    config: RunConfig,
    model: Architecture,
    load: TokenLoad,
    rows: int,
    *,
    dtype: str,
    slower: float = 1.0,
) -> float:
    """Batches × tokens × the longer of starting kernels and of reading weights and cache."""
    width = BYTES[dtype]
    batch = min(config.sampling.batch_size, rows)
    cache = batch * load.row * model.cached * width
    starting = model.layers * LAYER * slower
    token = max(starting, (model.matrices * width + cache) / BANDWIDTH)
    return -(-rows // config.sampling.batch_size) * config.sampling.max_new_tokens * token


def _evaluations(config: RunConfig) -> list[tuple[int, int]]:
    """(how often, answers) of every set of prompts at every temperature."""
    settings = config.evaluation
    every = settings.every or config.steps
    often = 1 + -(-config.steps // every)
    probes = PROBES if config.prompts.probe is None else config.prompts.probe
    sets = [(often, settings.prompts + probes)]
    sets += [(2 if s.when == "ends" else often, s.count) for s in settings.suites.values()]
    return [(times, answers) for times, count in sets for answers in _answers(config, count)]


def _answers(config: RunConfig, prompts: int) -> list[int]:
    """How many completions an evaluation of so many prompts takes at each temperature."""
    settings = config.evaluation
    return [prompts * (settings.samples if t else 1) for t in settings.temperatures]


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2g} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
