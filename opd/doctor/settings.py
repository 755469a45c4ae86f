"""Settings that are valid and rarely right. Needs only the configuration."""

from collections.abc import Iterator
from importlib.util import find_spec

from opd.config.models import RouteConfig
from opd.config.run import RunConfig
from opd.doctor.findings import Finding
from opd.doctor.memory import trained_parameters
from opd.errors import UserError
from opd.models.architecture import Architecture, architecture_of

# Published runs take 1e-4 for adapters and 5e-5 for all weights of models of 8B; the bundled pair
# of a million weights learns best near 1e-3. Ten times beyond those, runs were seen to break.
LORA_RATES = (1e-5, 1e-3)
LARGE_MODEL, LARGE_RATE = 100_000_000, 1e-4
SMALL_RATE = 1e-2
TEMPERATURES = (0.5, 1.5)  # outside, samples are near-greedy or near-random
SMALL_GROUP = 4  # below, a group's own mean is too rough a baseline
FEW_PROMPTS = 50  # the standard error of a share of 50 is 7 points
EXTRAS = {
    "bitsandbytes": "pip install 'opd-studio[quantized]'",
    "lm_eval": "pip install 'opd-studio[lm-eval]'",
    "math_verify": "pip install math-verify",
}


def check_settings(config: RunConfig) -> Iterator[Finding]:
    """Findings on the configuration by itself."""
    for check in (
        _learning_rate,
        _warmup,
        _temperature,
        _group,
        _own_samples,
        _nothing_to_learn,
        _evaluation,
        _extras,
    ):
        yield from check(config)


def _learning_rate(config: RunConfig) -> Iterator[Finding]:
    rate, field = config.optimizer.learning_rate, "optimizer.learning_rate"
    if config.student.lora is not None:
        low, high = LORA_RATES
        if not low <= rate <= high:
            word = "high" if rate > high else "low"
            yield Finding(
                "learning-rate",
                "warning",
                f"Learning rate {rate:g} is {word} for an adapter",
                "Adapters are usually trained near 1e-4: far above it the student breaks within a "
                "few steps, far below it learns nothing within a run.",
                f"Set {field} to between {low:g} and {high:g}; 1e-4 is a good start.",
                {"learning_rate": rate, "usual": 1e-4},
            )
        return
    student = _architecture(config)
    count = trained_parameters(config, student) if student is not None else 0
    limit = LARGE_RATE if count > LARGE_MODEL else SMALL_RATE
    if rate > limit:
        yield Finding(
            "learning-rate",
            "warning",
            f"Learning rate {rate:g} is high for all weights",
            f"All {count / 1e6:,.0f} million weights are trained. Above {limit:g}, models of this "
            "size forget what they knew within a few steps.",
            f"Set {field} to at most {limit:g} (5e-5 is usual for models above 100 million "
            "weights), or train an adapter (student.lora).",
            {"learning_rate": rate, "trained": count},
        )


def _warmup(config: RunConfig) -> Iterator[Finding]:
    warmup = config.optimizer.warmup_steps
    if warmup >= config.steps:
        yield Finding(
            "warmup",
            "warning",
            "The run ends during its warm-up",
            f"With {warmup} warm-up steps of {config.steps} the learning rate never reaches "
            f"{config.optimizer.learning_rate:g}.",
            "Lower optimizer.warmup_steps, or raise steps.",
        )


def _temperature(config: RunConfig) -> Iterator[Finding]:
    value = config.sampling.temperature
    low, high = TEMPERATURES
    if not low <= value <= high:
        yield Finding(
            "temperature",
            "warning",
            f"Sampling at temperature {value:g}",
            "Student and teacher are both compared at this temperature: far below 1 only the "
            "likeliest tokens are sampled and corrected, far above it mostly noise.",
            "Set sampling.temperature to 1, at which the published runs were made.",
        )


def _group(config: RunConfig) -> Iterator[Finding]:
    if config.objective.uses_rewards and config.sampling.group_size < SMALL_GROUP:
        yield Finding(
            "group-size",
            "warning",
            f"Groups of {config.sampling.group_size} for a reward",
            "The reward counts relative to the group's mean. In so small a group all rewards are "
            "often the same, and then the group teaches nothing.",
            f"Set sampling.group_size to {SMALL_GROUP} or more; 8 is usual.",
        )


def _own_samples(config: RunConfig) -> Iterator[Finding]:
    if config.objective_entry.author == "teacher" and config.author == "student":
        yield Finding(
            "sft-on-own-samples",
            "warning",
            "Fine-tuning on the student's own samples",
            "Nobody judges these samples, so they teach nothing new; in published runs a model "
            "gets worse this way at any practical learning rate.",
            "Set sampling.source to teacher or given, or use another objective.",
        )


def _nothing_to_learn(config: RunConfig) -> Iterator[Finding]:
    if config.needs == "nothing" or config.objective.reward_weight:
        return
    for name, teacher in config.teachers.items():
        if _same_model(config, teacher) and not teacher.has_own_prompt:
            yield Finding(
                "nothing-to-learn",
                "warning",
                "The teacher is the student, and knows no more",
                f"{name} reads the same prompt with the same weights: at the start both agree at "
                "every token, the loss is 0, and so is its gradient.",
                f"Give the teacher what the student does not see ({name}.prompt or {name}.system, "
                "such as a hint or the answer), or name another model.",
                {"teacher": name, "kind": teacher.kind},
            )


def _same_model(config: RunConfig, teacher: RouteConfig) -> bool:
    if teacher.kind in ("self", "ema"):
        return True
    return teacher.kind == "model" and teacher.model == config.student.model


def _evaluation(config: RunConfig) -> Iterator[Finding]:
    if config.prompts.grader != "none" and config.evaluation.prompts < FEW_PROMPTS:
        error = 0.5 / config.evaluation.prompts**0.5
        yield Finding(
            "few-evaluation-prompts",
            "info",
            f"Scores come from {config.evaluation.prompts} prompts",
            f"The standard error of a score is up to {100 * error:.0f} points: smaller changes "
            "cannot be told from chance.",
            "Raise evaluation.prompts, or evaluation.samples.",
        )


def _extras(config: RunConfig) -> Iterator[Finding]:
    needed: dict[str, list[str]] = {}
    if config.optimizer.name == "adamw_8bit":
        needed.setdefault("bitsandbytes", []).append("optimizer.name")
    if config.student.quantize != "none":
        needed.setdefault("bitsandbytes", []).append("student.quantize")
    for name, teacher in config.teachers.items():
        if teacher.quantize != "none":
            needed.setdefault("bitsandbytes", []).append(f"{name}.quantize")
    if config.evaluation.lm_eval:
        needed.setdefault("lm_eval", []).append("evaluation.lm_eval")
    graders = {"prompts": config.prompts} | {
        f"evaluation.suites.{n}": s for n, s in config.evaluation.suites.items()
    }
    for name, data in graders.items():
        if data.grader == "math":
            needed.setdefault("math_verify", []).append(f"{name}.grader")
    for module, fields in needed.items():
        if find_spec(module) is None:
            yield Finding(
                "missing-extra",
                "error",
                f"{module} is not installed",
                f"{', '.join(fields)} needs it; the run would be refused.",
                f"Run: {EXTRAS[module]}",
                {"module": module, "fields": fields},
            )


def _architecture(config: RunConfig) -> Architecture | None:
    try:
        return architecture_of(config.student.model, where="student.model")
    except UserError:  # reported by the check of the models
        return None
