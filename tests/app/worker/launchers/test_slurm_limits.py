import pytest

from app.worker.launchers.launcher import JobNeeds
from app.worker.launchers.slurm_limits import gpus_for, minutes_of
from opd.errors import UserError

SINFO = """\
main*|2:00:00|2|2|4000|(null)|up
gpu|1-00:00:00|3|64|256000|gpu:a100:4(S:0-1)|up
gpu|1-00:00:00|1|96|512000+|gpu:h100:8,shard:16|up
old|infinite|1|8|8000|gpu:2|up
closed|infinite|9|8|8000|gpu:2|down
"""


@pytest.mark.parametrize(
    ("needs", "gpus"),
    [
        (JobNeeds(), 0),
        (JobNeeds(gpus=1, gpus_if_any=True), 0),
        (JobNeeds(gpus=1, gpus_if_any=True, partition="gpu"), 1),
        (JobNeeds(gpus=8, partition="gpu", nodes=4, cpus=96, hours=24, memory_gb=530), 8),
        (JobNeeds(gpus=2, partition="old", hours=10_000), 2),
        (JobNeeds(nodes=2, cpus=2, memory_gb=4, hours=2), 0),
    ],
)
def test_what_the_cluster_can_give(needs: JobNeeds, gpus: int) -> None:
    assert gpus_for(needs, SINFO) == gpus


@pytest.mark.parametrize(
    ("needs", "where", "text"),
    [
        (JobNeeds(partition="nope"), "resources.partition", r"got nope\); it has: gpu, main, old"),
        (JobNeeds(partition="closed"), "resources.partition", "got closed"),
        (JobNeeds(gpus=1), "devices", r"got 1\): 0 GPUs on each machine"),
        (JobNeeds(gpus=9, partition="gpu"), "devices", r"got 9\): 8 GPUs"),
        (JobNeeds(nodes=3), "resources.nodes", r"got 3\): 2 machines are in main"),
        (JobNeeds(cpus=3), "resources.cpus", r"got 3\): 2 cores"),
        (JobNeeds(memory_gb=5), "resources.memory_gb", r"got 4,768.37\): 4,000 MiB in any"),
        (JobNeeds(hours=3), "resources.hours", r"got 3\): 2 hours is the limit of partition main"),
        (JobNeeds(hours=25, partition="gpu"), "resources.hours", r"got 25\): 24 hours"),
    ],
)
def test_what_it_can_not_is_named_with_field_value_and_limit(
    needs: JobNeeds, where: str, text: str
) -> None:
    with pytest.raises(UserError, match=text) as refused:
        gpus_for(needs, SINFO)
    assert refused.value.where == where


def test_without_a_default_partition_the_cluster_decides() -> None:
    named = SINFO.replace("*", "")
    assert gpus_for(JobNeeds(gpus=3, nodes=99), named) == 3
    assert gpus_for(JobNeeds(gpus=3, gpus_if_any=True), named) == 0


def test_minutes_are_rounded_up() -> None:
    assert [minutes_of(h) for h in (1, 0.5, 0.001)] == [60, 30, 1]
