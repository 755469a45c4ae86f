"""What a SLURM has, by its partitions, so that a job that could never start is not submitted."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.worker.launchers.launcher import JobNeeds
from opd.errors import UserError

FIELDS = "%P|%l|%D|%c|%m|%G|%a"
MIB = 2**20


@dataclass(frozen=True)
class _Nodes:
    """Of one kind, in one partition; `hours` is infinite where there is no limit."""

    partition: str
    default: bool
    hours: float
    count: int
    cores: int
    mebibytes: int
    gpus: int


def gpus_for(needs: JobNeeds, sinfo: str) -> int:
    """How many GPUs to ask for on each machine. Raises UserError that names field, value and limit
    where no machine of the partition can give what is needed."""
    kinds = list(_kinds(sinfo))
    names = sorted({kind.partition for kind in kinds})
    name = needs.partition
    here = [kind for kind in kinds if (kind.partition == name if name else kind.default)]
    if name is not None and not here:
        text = f"is no partition of this cluster (got {name}); it has: {', '.join(names)}"
        raise UserError(text, where="resources.partition")
    if not here:  # nothing is said by default: sbatch decides
        return 0 if needs.gpus_if_any else needs.gpus
    name = here[0].partition
    most = max(kind.gpus for kind in here)
    gpus = min(needs.gpus, most) if needs.gpus_if_any else needs.gpus
    hours = max(kind.hours for kind in here)
    memory = needs.memory_gb and needs.memory_gb * 1e9 / MIB
    has = max(kind.mebibytes for kind in here)
    checks: list[tuple[str, float | None, float, str]] = [
        ("devices", gpus, most, f"GPUs on each machine, and none of partition {name} has more"),
        ("resources.nodes", needs.nodes, sum(k.count for k in here), f"machines are in {name}"),
        ("resources.cpus", needs.cpus, max(k.cores for k in here), f"cores in any of {name}"),
        ("resources.memory_gb", memory, has, f"MiB in any machine of {name}"),
        ("resources.hours", needs.hours, hours, f"hours is the limit of partition {name}"),
    ]
    for field, value, limit, what in checks:
        if value is not None and value > limit:
            raise UserError(f"is too much (got {value:,.6g}): {limit:,.6g} {what}", where=field)
    return gpus


def minutes_of(hours: float) -> int:
    return math.ceil(hours * 60)


def _kinds(sinfo: str) -> Iterator[_Nodes]:
    for line in sinfo.splitlines():
        name, limit, count, cores, memory, gres, up = (c.strip() for c in line.split("|"))
        if up != "up":
            continue
        yield _Nodes(
            partition=name.rstrip("*"),
            default=name.endswith("*"),
            hours=_hours(limit),
            count=_number(count),
            cores=_number(cores),
            mebibytes=_number(memory),
            gpus=_gpus(gres),
        )


def _number(text: str) -> int:
    """`4000`, `4000+` where the nodes of a line differ."""
    return int(re.sub(r"\D", "", text) or 0)


def _hours(limit: str) -> float:
    """`30:00`, `2:00:00`, `7-00:00:00`, `infinite`."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if match is None:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return days * 24 + hours + minutes / 60 + seconds / 3600


def _gpus(gres: str) -> int:
    """`gpu:4`, `gpu:a100:4(S:0-1),gpu:v100:2`, `(null)`."""
    return sum(int(n) for n in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", gres))
