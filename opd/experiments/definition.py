"""Experiments: a claim as a comparison of arms, each arm ordinary runs of several seeds.

A definition is YAML. Every arm's configuration is laid over the common one, and `arm:NAME` in place
of a model means the checkpoint of that arm's run with the same seed; `"{seed}"` is that seed. First
each arm's sweep is run (`tuning`), on other problems than those that are reported on; then, with
each arm's best values, the runs that count. Free of torch.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from opd.config.data import Section
from opd.config.drafts.short_forms import with_overrides
from opd.config.drafts.yaml_text import load_yaml, read_file
from opd.config.field_errors import FieldError, located
from opd.config.paths import with_absolute_paths
from opd.config.run import RunConfig, parse
from opd.errors import UserError
from opd.types import HELD_OUT

ARM_REFERENCE = re.compile(r"arm:([a-z][a-z0-9-]{0,39})")
MAX_SEEDS = 50
MAX_CHOICES = 16
SEED = "{seed}"
START = "start"  # the row of a result's table that stands for what all arms begin with
# What no arm needs and each of its runs would pay for, unless the definition asks for it.
DEFAULTS = {"evaluation": {"teacher": False}}
SOME_RUN = "run-0"  # stands for an arm's run while a definition is checked
Stage = Literal["tune", "final"]
FieldPath = Annotated[str, Field(pattern=r"^[a-z_0-9]+(\.[A-Za-z0-9_-]+)+$|^steps$")]
Metric = Annotated[str, Field(pattern=r"^[^/]+/[^/]+$", max_length=420)]  # SUITE/METRIC
ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
Values = dict[FieldPath, Any]
Fields = dict[str, Any]


class Arm(Section):
    """One way of training. `sweep` holds the values tried of each field; `best` the stored ones."""

    label: str = Field(min_length=1, max_length=100)
    note: str = Field("", max_length=500)
    config: Fields = Field(default_factory=dict)
    sweep: dict[FieldPath, list[Any]] = Field(default_factory=dict)
    best: Values = Field(default_factory=dict)
    criterion: list[Metric] = Field(
        [], description="Selects by the mean of these; empty: main metric."
    )
    judged_by: Literal["mean", "last"] = Field(
        "mean", description="Mean over all evaluations after the start, or only the last one."
    )

    def choices(self) -> list[Values]:
        """Every combination of the sweep's values; one empty choice where there is no sweep."""
        fields = list(self.sweep)
        return [
            dict(zip(fields, values, strict=True))
            for values in itertools.product(*self.sweep.values())
        ]

    @model_validator(mode="after")
    def _best_is_of_the_sweep(self) -> "Arm":
        if len(self.choices()) > MAX_CHOICES:
            raise FieldError(
                "sweep", f"at most {MAX_CHOICES} combinations (got {len(self.choices())})"
            )
        if self.best and not self.sweep:
            raise FieldError("best", "needs a sweep; put fixed values into config")
        if self.sweep and self.best not in self.choices():
            raise FieldError("best", "must be one of the sweep's combinations")
        return self


class Target(Section):
    """The score to reach: a value, or the final score of an arm’s run with the same seed."""

    value: float | None = None
    arm: ArmName | None = Field(None, description="Target: mean of its `last` evaluations.")
    last: int = Field(3, ge=1, le=100)
    margin: float = Field(0.0, ge=0, le=1, description="Subtracted from the arm's score.")

    @model_validator(mode="after")
    def _one_of_both(self) -> "Target":
        if (self.value is None) == (self.arm is None):
            raise FieldError("value", "give either value or arm")
        return self


class CostRatio(Section):
    """The cost of reaching the target by arm `over`, divided by that of `under`."""

    over: ArmName
    under: ArmName
    note: str = Field("", max_length=500)
    without_teacher_sampling: bool = Field(
        False, description="Exclude FLOPs of completions sampled from a teacher."
    )


class ResultColumn(Section):
    metric: Metric
    label: str = Field(min_length=1, max_length=60)


class Overlay(Section):
    """Overrides of every arm's configuration in this stage."""

    seeds: int = Field(1, ge=1, le=MAX_SEEDS)
    config: Fields = Field(default_factory=dict)


class Experiment(Section):
    name: ArmName
    source: str = Field("", max_length=4096, description="File it was read from.")
    folder: str = Field(
        "", max_length=4096, description="Directory that relative paths start from."
    )
    title: str = Field("", max_length=200)
    description: str = Field("", max_length=2000)
    question: str = Field(max_length=1000)
    claim: str = Field("", max_length=1000, description="The published claim.")
    published: str = Field("", max_length=1000, description="The published figure.")
    shows: str = Field("", max_length=4000)
    limits: str = Field("", max_length=4000)
    minutes: dict[Literal["full", "quick"], float] = Field(default_factory=dict)
    seeds: int = Field(5, ge=1, le=MAX_SEEDS)
    common: Fields = Field(default_factory=dict)
    arms: dict[ArmName, Arm] = Field(min_length=1, max_length=12)
    tuning: Overlay = Field(default_factory=Overlay)  # type: ignore[arg-type]
    settings: list[str] = Field([], max_length=100, description="Assignments given with --set.")
    quick: Overlay = Field(default_factory=lambda: Overlay(seeds=2))
    metric: Metric = "heldout/pass@1"
    target: Target | None = None
    pairs: list[CostRatio] = Field([], max_length=8)
    columns: list[ResultColumn] = Field([], max_length=12)

    @model_validator(mode="after")
    def _arms_exist(self) -> "Experiment":
        named = [("target.arm", self.target.arm)] if self.target and self.target.arm else []
        for i, pair in enumerate(self.pairs):
            named += [(f"pairs.{i}.over", pair.over), (f"pairs.{i}.under", pair.under)]
        for field, arm in named:
            if arm not in self.arms:
                raise FieldError(field, f"no arm {arm!r}; there are {', '.join(self.arms)}")
        if START in self.arms:
            raise FieldError("arms", f"{START!r} is reserved for the first row of the results")
        earlier: set[str] = set()
        for name in self.arms:
            for needed in sorted(self.needed(name) - earlier):
                raise FieldError(f"arms.{name}.config", f"arm:{needed} must come before {name}")
            earlier.add(name)
        if self.pairs and self.target is None:
            raise FieldError("pairs", "cost ratios need a target")
        for name, config in self._configs().items():
            if "seed" in config:
                raise FieldError(f"{name}.seed", "each run gets its own seed; set seeds instead")
        return self

    def _configs(self) -> dict[str, Fields]:
        """Every part of a run's configuration, by its field."""
        arms = {f"arms.{name}.config": arm.config for name, arm in self.arms.items()}
        stages = {"tuning.config": self.tuning.config, "quick.config": self.quick.config}
        return {"common": self.common, **arms, **stages}

    def needed(self, arm: str) -> set[str]:
        """The arms whose runs it refers to, in any stage."""
        arm_config = merged(self.common, self.arms[arm].config)
        parts = (
            arm_config,
            merged(arm_config, self.tuning.config),
            merged(arm_config, self.quick.config),
        )
        return {name for part in parts for name in references(part)}

    @property
    def fingerprint(self) -> str:
        """Of all that decides what the runs that count do: not of texts and quick looks."""
        texts = (
            "source",
            "folder",
            "title",
            "description",
            "question",
            "claim",
            "published",
            "shows",
            "limits",
        )
        kept = self.model_dump(mode="json", exclude={*texts, "minutes", "quick", "settings"})
        for part in (*kept["arms"].values(), *kept["pairs"], *kept["columns"]):
            for name in ("label", "note", "best"):
                part.pop(name, None)
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def judged(self, arm: str) -> list[Metric]:
        """What the choices of an arm are judged by."""
        return self.arms[arm].criterion or [self.metric]

    def run_config(
        self,
        arm: str,
        choice: Values,
        *,
        seed: int,
        runs: Mapping[str, str],
        stage: Stage = "final",
        quick: bool = False,
    ) -> RunConfig:
        """The configuration of one run; `runs` has the run of each arm that it refers to.

        Raises ConfigError."""
        over = self.tuning.config if stage == "tune" else self.quick.config if quick else {}
        data = merged(merged(merged(DEFAULTS, self.common), self.arms[arm].config), over)
        data = with_overrides(_placed(data, runs, seed), [f"{k}={v}" for k, v in choice.items()])
        name = ", ".join(
            [
                self.arms[arm].label,
                *(f"{v:g}" if isinstance(v, float) else str(v) for v in choice.values()),
            ]
        )
        config = parse({"name": f"{name}, seed {seed}"} | data | {"seed": seed})
        return with_absolute_paths(config, Path(self.folder)) if self.folder else config


def references(node: Any) -> Iterator[str]:
    """The arms that a configuration refers to."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from references(value)
    elif isinstance(node, str) and (match := ARM_REFERENCE.fullmatch(node)):
        yield match[1]


def _placed(node: Any, runs: Mapping[str, str], seed: int) -> Any:
    """The configuration with runs in place of arms, and the seed in place of its name."""
    if isinstance(node, Mapping):
        return {key: _placed(value, runs, seed) for key, value in node.items()}
    if node == SEED:
        return seed
    if isinstance(node, str) and (match := ARM_REFERENCE.fullmatch(node)):
        return runs[match[1]]
    return node


def merged(under: Any, over: Any) -> Any:
    """Mappings laid over one another, field by field; anything else replaces what was there."""
    if not (isinstance(under, Mapping) and isinstance(over, Mapping)):
        return over
    return {
        **under,
        **{k: merged(under[k], v) if k in under else v for k, v in over.items()},
    }


def experiments() -> list[Experiment]:
    """Those that come with the product and run on the bundled models, then those for real ones."""
    folder = resources.files("opd.experiments").joinpath("files")
    bundled = [
        parse_experiment(load_yaml(text, where=f.name), text)
        for f in sorted(folder.iterdir(), key=lambda f: f.name)
        if f.name.endswith(".yaml")
        for text in [f.read_text(encoding="utf-8")]
    ]
    order = {name: i for i, name in enumerate(ORDER)}
    return sorted(bundled, key=lambda e: (order.get(e.name, len(order)), e.name))


ORDER = ("self-distillation", "small-student", "new-knowledge", "one-prompt", "own-samples")


def experiment(name: str) -> Experiment:
    """The one of that name, or of a YAML file. Raises UserError."""
    bundled = {e.name: e for e in experiments()}
    if name in bundled:
        return bundled[name]
    path = Path(name).expanduser()
    if path.is_file():
        data = {**read_file(path).data, "source": str(path)}
        return parse_experiment(data, path.read_text(encoding="utf-8"), where=str(path))
    raise UserError(
        f"no experiment or file of this name; experiments: {', '.join(bundled)}", where=name
    )


def parse_experiment(data: Any, text: str = "", *, where: str = "experiment") -> Experiment:
    """Validates plain data; the first comment line is the title, the others the description.

    Raises UserError that names the field."""
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line[:1] == "#"]
    head = {"title": comments[0], "description": " ".join(comments[1:])} if comments else {}
    try:
        experiment = Experiment.model_validate({**head, **data})
    except ValidationError as error:
        raise UserError(first_problem(error), where=where) from None
    labels = [arm.label for arm in experiment.arms.values()]
    if len(set(labels)) < len(labels):
        raise UserError("arms: labels must be unique", where=where)
    for name, arm in experiment.arms.items():
        for choice in (*arm.choices(), arm.best):
            _check_arm(experiment, name, choice, where)
    return experiment


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a definition, after its field."""
    field, message = located(error.errors(include_url=False)[0])
    return f"{field}: {message}" if field else message


def _check_arm(experiment: Experiment, name: str, choice: Values, where: str) -> None:
    """Raises UserError where an arm's configuration cannot run in one of the stages."""
    stages: tuple[tuple[Stage, bool], ...] = (("tune", False), ("final", False), ("final", True))
    runs = dict.fromkeys(experiment.arms, SOME_RUN)
    for stage, quick in stages:
        try:
            config = experiment.run_config(
                name, choice, seed=0, runs=runs, stage=stage, quick=quick
            )
        except UserError as error:
            raise UserError(f"arms.{name}.config: {error}", where=where) from None
        columns = [column.metric for column in experiment.columns]
        for metric in (experiment.metric, *experiment.judged(name), *columns):
            if not _is_measured(metric, config):
                raise UserError(
                    f"arms.{name}.config: {metric} is not measured by any of its evaluations "
                    "(suites "
                    f"{', '.join((HELD_OUT, *config.evaluation.suites))} at temperature "
                    f"{', '.join(f'{t:g}' for t in config.evaluation.temperatures)})",
                    where=where,
                )


def _is_measured(metric: str, config: RunConfig) -> bool:
    """Whether the suite is one of the run's, at the training temperature unless its name says."""
    suite = metric.partition("/")[0]
    suites = (HELD_OUT, *config.evaluation.suites)
    if suite in suites:
        return config.sampling.temperature in config.evaluation.temperatures
    return any(suite.startswith(f"{name}-") for name in suites)


def with_settings(experiment: Experiment, assignments: list[str]) -> Experiment:
    """The experiment with a field changed in every arm, such as `steps=10`, or a part of its own,
    such as `arms.opd.config.steps=10`. Raises UserError."""
    data = experiment.model_dump(mode="json")
    top = set(Experiment.model_fields) - set(RunConfig.model_fields)
    for assignment in assignments:
        field = assignment.partition("=")[0].strip()
        if field.partition(".")[0] in top:
            data = with_overrides(data, [assignment])
            continue
        swept = [name for name, arm in experiment.arms.items() if field in arm.sweep]
        if swept:
            raise UserError(
                f"arms {', '.join(swept)} sweep this field; change the sweep in a YAML file",
                where=f"--set {field}",
            )
        data["common"] = with_overrides(data["common"], [assignment])
        layers = [*data["arms"].values(), data["tuning"], data["quick"]]
        for part in layers:  # what an arm or a stage lays over it has to give way
            if _has(part["config"], field.split(".")):
                part["config"] = with_overrides(part["config"], [assignment])
    return parse_experiment(
        {**data, "settings": [*experiment.settings, *assignments]}, where="--set"
    )


def _has(config: Any, path: list[str]) -> bool:
    """Whether the configuration sets the field, or something in its place."""
    for part in path:
        if not isinstance(config, Mapping):
            return True
        if part not in config:
            return False
        config = config[part]
    return True
