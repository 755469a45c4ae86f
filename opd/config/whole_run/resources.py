"""What a run's job asks of a cluster. This machine, with devices of its own, has no use for it."""

from typing import Annotated

from pydantic import Field

from opd.config.data import Section

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$")]


class ResourcesConfig(Section):
    nodes: int = Field(
        1,
        ge=1,
        le=64,
        description="Machines that train the run together; its devices are shared out among them "
        "evenly (only on a cluster).",
    )
    cpus: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Processor cores to ask for on each machine (only on a cluster); empty: as "
        "many as the cluster gives.",
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Main memory to ask for on each machine, in GB (only on a cluster); empty: as "
        "much as the cluster gives.",
    )
    hours: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="Time to ask for (only on a cluster); a minute before it is up, the run saves "
        "a checkpoint and is interrupted. Empty: the cluster's own limit.",
    )
    partition: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="SLURM's partition (only there); empty: the default one.",
        examples=["gpu"],
    )
    labels: dict[Label, Label] = Field(
        default_factory=dict,
        max_length=16,
        description="Labels that the machine must have (only with Ray).",
        examples=[{"accelerator": "h100"}],
    )
