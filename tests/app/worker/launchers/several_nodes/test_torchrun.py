import shlex

from app.worker.launchers.launcher import JobNeeds
from app.worker.launchers.several_nodes.torchrun import TORCHRUN, on_several_nodes


def test_it_starts_the_command_on_each_node_and_meets_at_the_address() -> None:
    needs = JobNeeds(nodes=2, processes=4)
    text = on_several_nodes(["train", "a b"], needs, "key", '"$(hostname)":1', "--more=1")
    assert '--rdzv-endpoint="$(hostname)":1 ' in text  # for the shell to read
    words = shlex.split(text)
    options = words[len(TORCHRUN) : words.index("--no-python")]
    assert tuple(words[: len(TORCHRUN)]) == TORCHRUN
    for option in ("--nnodes=2", "--nproc-per-node=4", "--rdzv-id=key", "--max-restarts=0"):
        assert option in options
    assert "--more=1" in options
    assert words[-2:] == ["train", "a b"]
