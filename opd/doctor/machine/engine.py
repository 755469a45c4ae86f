"""What writes the completions, where it is not the run's own process: whether it can do that."""

from collections.abc import Iterator, Sequence

from opd.config.run import RunConfig
from opd.doctor.findings import Finding, refused
from opd.errors import UserError
from opd.sampling.vllm.address import address_of
from opd.sampling.vllm.offers import open_routes, server_for
from opd.sampling.vllm.python import vllm_python


def check_engine(config: RunConfig) -> Iterator[Finding]:
    """Findings on the Python that runs vLLM, or the address of a server; nobody is asked. None
    where the run uses neither."""
    yield from _check_teachers(config)
    if config.sampling.engine == "local":
        return
    if config.sampling.url is not None:
        try:
            address_of(config.sampling)
        except UserError as error:
            yield refused("engine-refused", "The vLLM server cannot be asked", error)
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
        f"Started by {python.path} for the run, on the run's device.",
    )


def _check_teachers(config: RunConfig) -> Iterator[Finding]:
    for field, teacher in config.teachers.items():
        if teacher.engine == "local":
            continue
        try:
            python = vllm_python(where=f"{field}.engine", takes_weights=False)
        except UserError as error:
            yield refused("engine-refused", "The teacher's vLLM server cannot be started", error)
            continue
        yield Finding(
            "engine",
            "ok",
            f"vLLM {python.version} judges for {field}",
            f"Started by {python.path} for the run. The memory plan has its weights, not its keys "
            "and values.",
        )


def check_server(config: RunConfig) -> Iterator[Finding]:
    """Findings on the user's own server, which is asked; none where the run uses none."""
    if config.sampling.url is None:
        return
    try:
        address, offers, way = server_for(config)
        opened = open_routes(address)
    except UserError as error:
        yield refused("engine-refused", "The vLLM server cannot write for this run", error)
        return
    takes = "the adapter" if way == "adapter" else "all weights, from files"
    yield Finding(
        "engine",
        "ok",
        f"{offers.model} at {address.configured} writes the completions",
        f"It takes {takes}, after every step.",
    )
    if opened:
        yield _open_routes(opened)


def _open_routes(routes: Sequence[str]) -> Finding:
    named = ", ".join(routes)
    return Finding(
        "engine-open",
        "warning",
        "Whoever reaches the vLLM server can change or stop it",
        f"These routes ask for no key: {named}. --api-key covers only what is below /v1, so any "
        "program and any web page that is open on a machine which reaches the server can use them.",
        "Have it listen on a Unix socket in a folder of mode 0700 (--uds), or behind a proxy that "
        "lets nobody else to these routes.",
    )
