"""Which teacher reads which prompt, and what it reads there.

A teacher's prompt may hold what the student does not know (a hint, the solution): its sequences
have prompts of their own, and the completion's positions follow from those.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from opd.config.models import TeacherConfig
from opd.config.run import RunConfig
from opd.data.prompts import Prompt, rendered, rendered_text
from opd.errors import ErrorKind, UserError
from opd.models.batches import Sequences, micro_batches, units
from opd.models.load import Pair, context_of
from opd.models.routes import check_lengths
from opd.teachers.local import Reading, Teacher

MAIN = ""  # the route of the teacher of all prompts that no other route takes


def field_of(route: str) -> str:
    """The route's path in the configuration, as `RunConfig.teachers` names it."""
    return f"teacher.routes.{route}" if route else "teacher"


def route_of(settings: TeacherConfig, prompt: Prompt) -> str:
    """Which teacher reads this prompt. Raises UserError for a row without the field."""
    if settings.route_by is None or not settings.routes:
        return MAIN
    if settings.route_by not in prompt.row:
        raise UserError(
            f"prompt {prompt.number} has no field {settings.route_by!r}; it has "
            f"{', '.join(map(repr, prompt.row))}",
            where="teacher.route_by",
            kind=ErrorKind.BAD_DATA,
        )
    value = str(prompt.row[settings.route_by])
    return value if value in settings.routes else MAIN


def by_route(settings: TeacherConfig, prompts: Sequence[Prompt]) -> dict[str, list[int]]:
    """Route → the numbers, in `prompts`, of those it takes. Raises UserError as `route_of`."""
    routes: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        routes.setdefault(route_of(settings, prompt), []).append(number)
    return routes


@dataclass(frozen=True)
class TeacherRouter:
    """The run's teachers by route; none of them where nobody judges."""

    teachers: Mapping[str, Teacher]
    config: RunConfig
    pair: Pair

    def by_route(self, prompts: Sequence[Prompt]) -> dict[str, list[int]]:
        return by_route(self.config.teacher, prompts)

    def teacher(self, prompt: Prompt | None = None) -> Teacher | None:
        """Who judges this prompt; without a prompt the first teacher; None where nobody does."""
        if prompt is None or not self.teachers:
            return next(iter(self.teachers.values()), None)
        return self.teachers.get(route_of(self.config.teacher, prompt))

    def path(self, prompt: Prompt) -> str | None:
        """The section of the configuration of who judges this prompt; None where nobody does."""
        route = route_of(self.config.teacher, prompt) if self.teachers else MAIN
        return field_of(route) if route in self.teachers else None

    def prompt_text(self, prompt: Prompt) -> str:
        """What the teacher reads in the prompt's place, as rendered."""
        return rendered_text(
            prompt, self.config.prompts, self.pair.tokenizer, **self._templates(prompt)
        )

    def _templates(self, prompt: Prompt) -> dict[str, str | None]:
        settings = self.config.teachers[field_of(route_of(self.config.teacher, prompt))]
        return {"template": settings.prompt, "system": settings.system}

    def end_token(self, prompt: Prompt) -> str | None:
        """What this prompt's teacher is shown in place of the student's stop ids; None: nothing."""
        teacher = self.teacher(prompt)
        return teacher.end.text if teacher is not None and teacher.end is not None else None

    def context(self) -> int:
        """How many tokens every model holds that reads the student's own prompts."""
        fields = self.config.teachers
        plain = [
            teacher.model
            for route, teacher in self.teachers.items()
            if not fields[field_of(route)].has_own_prompt
        ]
        return min(context_of(m) for m in (self.pair.student, *plain) if m is not None)

    def check_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Raises UserError for a prompt of a teacher's own that it cannot read, and for prompts
        whose completions may pass to other rotary factors, each in the form its model reads."""
        limit = self.config.sampling.max_new_tokens
        lengths = [len(p.ids) for p in prompts]
        check_lengths(self.pair.student, lengths, limit, where="student.model")
        for route, rows in self.by_route(prompts).items():
            teacher = self.teachers.get(route)
            if teacher is None:
                continue
            lengths = [len(self.prompt_ids(prompts[i])) for i in rows]
            if teacher.model is not None:
                check_lengths(teacher.model, lengths, limit, where=f"{field_of(route)}.model")

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """What the teacher reads in the prompt's place. Raises UserError when it is too long."""
        route = route_of(self.config.teacher, prompt)
        if not self.config.teachers[field_of(route)].has_own_prompt:
            return prompt.ids
        _, ids = rendered(
            prompt, self.config.prompts, self.pair.tokenizer, **self._templates(prompt)
        )
        model = self.teachers[route].model
        room = (context_of(model) if model else 2**31) - self.config.sampling.max_new_tokens
        if len(ids) > room:
            raise UserError(
                f"the teacher's prompt {prompt.number} has {len(ids)} tokens; its context leaves "
                f"room for {room} beside sampling.max_new_tokens",
                where="teacher.prompt",
                kind=ErrorKind.BAD_DATA,
            )
        return ids

    def read(
        self, prompts: Sequence[Prompt], whole: Sequences, *, temperature: float, max_tokens: int
    ) -> Iterator[tuple[list[int], Reading | None]]:
        """Micro-batches of rows that share a teacher, with its reading; None where nobody reads.

        `whole` holds the student's prompts and the completions, row by row as `prompts`.
        """

        def batches(student: Sequences, teacher: Sequences | None = None) -> list[list[int]]:
            packed = units(student, teacher, pairs_per_token=self.pair.pairs_per_token)
            return micro_batches(packed, max_tokens=max_tokens)

        if not self.teachers:
            yield from ((rows, None) for rows in batches(whole))
            return
        for route, rows in self.by_route(prompts).items():
            theirs = Sequences(
                [self.prompt_ids(prompts[i]) for i in rows], [whole.completions[i] for i in rows]
            )
            cut = batches(whole.take(rows), theirs)
            readings = self.teachers[route].read([theirs.take(b) for b in cut], temperature)
            for batch, reading in zip(cut, readings, strict=True):
                yield [rows[i] for i in batch], reading

    def unhinted(self) -> "TeacherRouter":
        """The first teacher, which reads what the student reads: no hints, no routes.

        For prompts that are no row of the data.
        """
        plain: dict[str, Any] = {"prompt": None, "system": None, "route_by": None, "routes": {}}
        config = self.config.model_copy(
            update={"teacher": self.config.teacher.model_copy(update=plain)}
        )
        first = self.teacher()
        return replace(self, teachers={} if first is None else {MAIN: first}, config=config)

    def close(self) -> None:
        """Lets go of what the teachers hold beside memory."""
        for teacher in self.teachers.values():
            teacher.close()
