"""The vLLM servers that judge for a run whose teachers have engine vllm: one for each model."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from app.worker.engines.server import JobServer, ServerRole, environment
from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.sampling.vllm.python import vllm_python
from opd.teachers.serving import SERVED_NAME, TeacherServing
from storage.data_dir import RunDir

KIND = ErrorKind.TEACHER_SERVER
CARD_SHARE = 0.3  # of a GPU's memory, for all teachers together
MOST_TOKENS = 2048  # of a pass: the logits of all of them are held at once


class TeacherServers(ExitStack):
    """`serve` starts one; on leaving the block all end."""

    def __init__(
        self, folder: RunDir, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._folder, self._stop, self._say = folder.path, stop, say
        self._servers: dict[str, JobServer] = {}

    def serve(self, settings: TeacherServing) -> Path | None:
        """The socket of the server, once it answers; None when asked to stop before.

        Raises UserError where there is no vLLM, and where the server ends."""
        where = f"{settings.field}.engine"
        python = vllm_python(where=where, takes_weights=False)
        self._say(f"starting vLLM {python.version} for {settings.field}.model")
        route = settings.field.removeprefix("teacher").replace(".routes.", "-").replace("/", "-")
        log = self._folder / f"vllm-teacher{route}.txt"
        server = JobServer(ServerRole("the teacher's vLLM server", where, KIND), log, self._stop)
        self._servers[settings.field] = server
        self.enter_context(server)
        variables = environment(python, settings.device, settings.cache_bytes)
        return server.launch(python, _arguments(settings), variables)

    def explained(self, error: UserError) -> UserError:
        """With how a teacher's server ended, where it is there no more."""
        field = (error.where or "").rpartition(".")[0]
        server = self._servers.get(field)
        return error if server is None else server.explained(error)


def check_teacher_engines(config: RunConfig) -> None:
    """Raises UserError, before anything is loaded, where no teacher's server could be started."""
    for field, teacher in config.teachers.items():
        if teacher.engine == "vllm":
            vllm_python(where=f"{field}.engine", takes_weights=False)


def _arguments(settings: TeacherServing) -> list[str]:
    share = CARD_SHARE / settings.servers
    return [
        *("--model", str(settings.model), "--served-model-name", SERVED_NAME),
        *("--dtype", settings.dtype, "--max-model-len", str(settings.context)),
        *("--max-num-batched-tokens", str(max(MOST_TOKENS, settings.context))),
        *("--logprobs-mode", "raw_logprobs", "--max-logprobs", str(max(settings.top_k, 1))),
        # Ids go in and come out; to look up the text of each takes as long as all else together.
        *("--generation-config", "vllm", "--skip-tokenizer-init"),
        *(
            ["--enforce-eager"]
            if settings.device == "cpu"
            else ["--gpu-memory-utilization", str(share)]
        ),
    ]
