"""A teacher in a vLLM server of the run's own: it judges as one behind a user's server does.

The process that trains loads its tokenizer and configuration only.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opd.config.model_files.weights import read_object
from opd.config.models import MOST_LIKELIEST, RouteConfig
from opd.config.run import RunConfig
from opd.config.whole_run.checks import whole_vocabulary
from opd.data.prompts import Prompt
from opd.errors import ErrorKind, UserError
from opd.models.architecture import Architecture, from_config
from opd.models.batches import Sequences
from opd.sampling.sample import Stopped
from opd.sampling.vllm.share import UNKNOWN_CACHE
from opd.teachers.end_token import EndToken
from opd.teachers.local import Reader, Reading
from opd.teachers.remote import ServerTeacher
from opd.teachers.routing import TeacherRouter
from opd.teachers.serving import SERVED_NAME, ServeTeacher, TeacherServing
from opd.teachers.vllm_client import KNOWN_TOKENS, RemoteTeacher, known_ids

ADDRESS = "http://localhost/v1"  # behind its socket
ROWS = 16  # of the longest sequence, whose keys and values fit


@dataclass(frozen=True)
class ServedModel:
    """The model of `field`, in a folder; `rows` are all its ids, `top_k` what it is asked for."""

    field: str
    settings: RouteConfig
    folder: Path
    rows: int
    top_k: int = 0

    def asked_for(self, config: RunConfig) -> "ServedModel":
        """The same, asked for all that a run needs.

        Raises UserError for more ids than a server is asked for."""
        whole = whole_vocabulary(config)
        needed = config.objective.top_k if config.needs == "top_k" else 0
        if not whole:
            return replace(self, top_k=min(max(self.settings.top_k, needed), self.rows))
        if self.rows > MOST_LIKELIEST:
            raise UserError(
                f"{whole} needs the teacher's whole distribution, and a server is asked for at "
                f"most {MOST_LIKELIEST:,} of its {self.rows:,} ids: take engine local, or an "
                "objective and a temperature of 1 for which the likeliest do",
                where=f"{self.field}.engine",
            )
        return replace(self, top_k=self.rows)


class ServedTeacher:
    """Judges once it is started."""

    model: Any = None

    def __init__(
        self,
        served: ServedModel,
        reader: Reader,
        stop: Callable[[], bool],
        end: EndToken | None,
    ) -> None:
        self._served, self._reader, self._stop, self.end = served, reader, stop, end
        self._teacher: ServerTeacher | None = None

    def start(self, serve: ServeTeacher | None, longest: int, servers: int) -> None:
        """`longest`: tokens of the longest sequence that it is to read; `servers` share a GPU.

        Raises Stopped, and UserError where the server cannot be started, or judge."""
        served, field = self._served, self._served.field
        if serve is None:
            raise UserError("vllm needs a job that starts the server", where=f"{field}.engine")
        dtype = served.settings.dtype
        context = max(longest, KNOWN_TOKENS) + 1
        shape = from_config(read_object(served.folder / "config.json", where=f"{field}.model"))
        self._check_context(longest, shape)
        settings = TeacherServing(
            field=field,
            model=served.folder,
            dtype=dtype,
            device=str(self._reader.device),
            context=context,
            top_k=served.top_k,
            cache_bytes=_cache_bytes(shape, dtype, ROWS * context),
            servers=servers,
        )
        socket = serve(settings)
        if socket is None:
            raise Stopped
        update = {
            **{"kind": "remote", "engine": "local", "model": SERVED_NAME},
            **{"url": ADDRESS, "retries": 0, "top_k": served.top_k},
        }
        remote = RemoteTeacher(
            served.settings.model_copy(update=update), where=field, socket=socket
        )
        self._teacher = ServerTeacher(
            remote, self._reader, self._stop, self.end, whole=served.top_k == served.rows
        )
        remote.check(known_ids(self._reader.vocab))

    def read(self, batches: Sequence[Sequences], temperature: float) -> Iterator[Reading]:
        """Raises UserError where nobody has started it."""
        if self._teacher is None:
            raise UserError("its server is not started", where=f"{self._served.field}.engine")
        return self._teacher.read(batches, temperature)

    def close(self) -> None:
        if self._teacher is not None:
            self._teacher.close()

    def _check_context(self, longest: int, shape: Architecture | None) -> None:
        context = shape.context if shape else None
        if context and longest + 1 > context:
            raise UserError(
                f"it reads {context} tokens at most; the longest prompt and completion have "
                f"{longest}, and the server writes one more: lower sampling.max_new_tokens or "
                "prompts.max_prompt_tokens",
                where=f"{self._served.field}.model",
                kind=ErrorKind.BAD_DATA,
            )


def _cache_bytes(shape: Architecture | None, dtype: str, tokens: int) -> int:
    value = 4 if dtype == "float32" else 2
    return UNKNOWN_CACHE if shape is None else shape.cached * value * tokens


def start_teachers(
    router: TeacherRouter, prompts: Sequence[Prompt], serve: ServeTeacher | None
) -> None:
    """Starts those of a run that are to have a server. `prompts` are all that are to be read.

    Raises Stopped, and UserError where one cannot be started, or judge."""
    served = {r: t for r, t in router.teachers.items() if isinstance(t, ServedTeacher)}
    if not served:
        return
    limit = router.config.sampling.max_new_tokens
    for route, rows in router.by_route(prompts).items():
        if route in served:
            longest = max(len(router.prompt_ids(prompts[i])) for i in rows)
            served[route].start(serve, longest + limit, len(served))


def with_local_teachers(config: RunConfig) -> RunConfig:
    """The same run with every teacher in the process, for who asks without a job."""
    if all(teacher.engine == "local" for teacher in config.teachers.values()):
        return config
    routes = {
        name: route.model_copy(update={"engine": "local"})
        for name, route in config.teacher.routes.items()
    }
    teacher = config.teacher.model_copy(update={"engine": "local", "routes": routes})
    return config.model_copy(update={"teacher": teacher})
