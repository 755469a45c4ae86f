"""What writes the completions, where it is not the run's own process: whether it can be started."""

from collections.abc import Iterator

from opd.config.run import RunConfig
from opd.doctor.findings import Finding, refused
from opd.errors import UserError
from opd.sampling.vllm.python import vllm_python


def check_engine(config: RunConfig) -> Iterator[Finding]:
    """Findings on the Python that runs vLLM; none where the run does not use it."""
    if config.sampling.engine == "local":
        return
    try:
        python = vllm_python()
    except UserError as error:
        yield refused("engine-refused", "The vLLM server cannot be started", error)
        return
    yield Finding(
        "engine",
        "ok",
        f"vLLM {python.version} writes the completions",
        f"Started by {python.path} for the run. What it takes is not in the memory plan.",
    )
