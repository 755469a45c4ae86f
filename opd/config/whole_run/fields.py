"""The fields of a whole run's configuration."""

from typing import Literal

from pydantic import Field

from opd.config.data import PromptsConfig, Section, choices
from opd.config.models import RouteConfig, StudentConfig, TeacherConfig
from opd.config.sections import (
    CheckpointsConfig,
    EvaluationConfig,
    ObjectiveConfig,
    OptimizerConfig,
    RecordsConfig,
    SamplingConfig,
    StopConfig,
)
from opd.config.whole_run.resources import ResourcesConfig
from opd.loss.objective import Need, Objective
from opd.loss.objective_table import OBJECTIVES


class RunFields(Section):
    """The fields, and what follows from several of them."""

    name: str = Field("", max_length=200, description="Display name of the run.")
    student: StudentConfig = Field(default_factory=StudentConfig)  # type: ignore[arg-type]
    teacher: TeacherConfig = Field(default_factory=TeacherConfig)  # type: ignore[arg-type]
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)  # type: ignore[arg-type]
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    steps: int = Field(20, ge=1, le=1_000_000, description="Optimizer steps.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$",
        description="auto, cpu, cuda, cuda:N or mps. auto: the first free GPU, else mps (Apple's, "
        "which has not been tried yet), else the CPU.",
    )
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that train the run together, each with the models on a device of "
        "the kind that device names, and a share of the rollouts.",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="How the processes of a run hold the models.",
        json_schema_extra=choices(
            none="Each holds all of them.",
            full="Each holds a part of every layer: for models that do not fit a device; slower.",
        ),
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Random seed of prompts and samples.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)  # type: ignore[arg-type]
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)  # type: ignore[arg-type]
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)  # type: ignore[arg-type]
    records: RecordsConfig = Field(default_factory=RecordsConfig)  # type: ignore[arg-type]
    checkpoints: CheckpointsConfig = Field(
        default_factory=CheckpointsConfig  # type: ignore[arg-type]
    )
    stop: StopConfig = Field(default_factory=StopConfig)  # type: ignore[arg-type]
    resources: ResourcesConfig = Field(default_factory=ResourcesConfig)  # type: ignore[arg-type]
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0: all cores.")

    @property
    def author(self) -> str:
        """Who writes the completions: "student", "teacher" or "given"."""
        if self.sampling.source != "auto":
            return self.sampling.source
        return self.objective_entry.author

    @property
    def completions_per_step(self) -> int:
        """Of given ones, a prompt has one."""
        group = 1 if self.author == "given" else self.sampling.group_size
        return self.sampling.prompts_per_step * group

    @property
    def teacher_writes(self) -> bool:
        """Whether any completion is written by a teacher."""
        return self.author == "teacher" or self.sampling.teacher_share > 0

    @property
    def evaluates_teacher(self) -> bool:
        """Whether the teacher's own score is measured, as told or by default.

        By default not where it is the student itself and reads what the student reads: that score
        is the student's own before training.
        """
        setting = self.evaluation.teacher
        if setting is not None:
            return setting
        used = self.needs != "nothing" or self.teacher_writes
        return (
            used
            and self.prompts.grader != "none"
            and all(
                (t.kind == "model" and t.engine == "local")
                or (t.kind in ("self", "ema") and t.has_own_prompt)
                for t in self.teachers.values()
            )
        )

    @property
    def objective_entry(self) -> Objective:
        """The objective's entry in the table."""
        return OBJECTIVES[self.objective.name]

    @property
    def needs(self) -> Need:
        """What the objective needs to know of the teacher."""
        return self.objective_entry.needs

    @property
    def models(self) -> dict[str, str]:
        """Every model that the run loads, by its field's path."""
        judges = {f"{f}.model": t.model for f, t in self.teachers.items() if t.kind == "model"}
        return {"student.model": self.student.model, **judges}

    @property
    def teachers(self) -> dict[str, RouteConfig]:
        """Every teacher by its field's path, with the dtype that it has."""
        routes = {f"teacher.routes.{k}": v for k, v in self.teacher.routes.items()}
        alike = {"dtype": self.student.dtype}
        return {
            field: teacher.model_copy(update=alike) if teacher.dtype == "student" else teacher
            for field, teacher in {"teacher": self.teacher, **routes}.items()
        }
