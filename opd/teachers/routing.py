"""The run's teachers together: which of them reads which prompt, and what it reads there.

A teacher's prompt may hold what the student does not know (a hint, the solution): its sequences
have prompts of their own, and the completion's positions follow from those.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opd.config.models import RouteConfig
from opd.config.run import RunConfig
from opd.data.prompts import Prompt, rendered
from opd.errors import ErrorKind, UserError
from opd.models.batches import Sequences, micro_batches, units
from opd.models.load import context_of
from opd.teachers.local import Reading, Teacher


@dataclass(frozen=True)
class TeacherRouter:
    """`teachers` by route; "" is the teacher of all prompts that no route takes."""

    teachers: Mapping[str, Teacher]
    config: RunConfig
    tokenizer: Any

    def route(self, prompt: Prompt) -> str:
        """Which teacher reads this prompt. Raises UserError for a row without the field."""
        settings = self.config.teacher
        if settings.route_by is None or not settings.routes:
            return ""
        if settings.route_by not in prompt.row:
            raise UserError(
                f"prompt {prompt.number} has no field {settings.route_by!r}; it has "
                f"{', '.join(map(repr, prompt.row))}",
                where="teacher.route_by",
                kind=ErrorKind.BAD_DATA,
            )
        value = str(prompt.row[settings.route_by])
        return value if value in settings.routes else ""

    def settings(self, route: str) -> RouteConfig:
        return self.config.teacher.routes[route] if route else self.config.teacher

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """What the teacher reads in the prompt's place. Raises UserError when it is too long."""
        route = self.route(prompt)
        settings = self.settings(route)
        if settings.prompt is None and settings.system is None:
            return prompt.ids
        _, ids = rendered(
            prompt,
            self.config.prompts,
            self.tokenizer,
            template=settings.prompt,
            system=settings.system,
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
    router: TeacherRouter | None,
    prompts: Sequence[Prompt],
    whole: Sequences,
    *,
    temperature: float,
    max_tokens: int,
    pairs_per_token: float,
) -> Iterator[tuple[list[int], Reading | None]]:
    """Micro-batches of rows that share a teacher, with its reading; None where nobody reads."""

    def batches(own: Sequences, theirs: Sequences | None = None) -> list[list[int]]:
        return micro_batches(
            units(own, theirs, pairs_per_token=pairs_per_token), max_tokens=max_tokens
        )

    if router is None or not router.teachers:
        yield from ((rows, None) for rows in batches(whole))
        return
    by_route: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_route.setdefault(router.route(prompt), []).append(row)
    for route, rows in by_route.items():
        theirs = Sequences(
            [router.prompt_ids(prompts[i]) for i in rows], [whole.completions[i] for i in rows]
        )
        cut = batches(whole.take(rows), theirs)
        readings = router.teachers[route].read([theirs.take(b) for b in cut], temperature)
        for batch, reading in zip(cut, readings, strict=True):
            yield [rows[i] for i in batch], reading
