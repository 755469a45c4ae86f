"""What a step of this run executes in FLOPs, by the formula of `opd.models.cost`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opd.models import cost
from opd.models.batches import pack_length, packs
from opd.models.forward import causal
from opd.teachers.local import LocalTeacher
from opd.training.loading import LoadedRun
from opd.training.rollouts import Completion, sequences


class StepFlops:
    """Counts sampling by whoever writes, the teachers' and the reference's reading, training.

    What a server executes is not counted: nobody here knows its model.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        self._loaded = loaded
        self._student = cost.model_cost(loaded.pair.student)
        self._costs: dict[int, cost.ModelCost] = {}

    def step(self, completions: Sequence[Completion]) -> float:
        """FLOPs of the step that samples and trains on these completions."""
        reading = self._reading(self._student, completions, self._loaded.pair.pairs_per_token)
        recomputes = causal(self._loaded.pair.student).is_activation_checkpointing
        passes = cost.training_passes(self._loaded.learner.config, recomputes=recomputes)
        return passes * reading + self._sampling(completions) + self._judging(completions)

    def parts(self, completions: Sequence[Completion]) -> dict[str, float]:
        """What of a step's FLOPs is left out where a teacher's completions are already there."""
        by_teacher = [c for c in completions if c.author == "teacher"]
        return {"teacher_sampling_flops": self._sampling(by_teacher)} if by_teacher else {}

    def _reading(
        self, model: cost.ModelCost, completions: Sequence[Completion], pairs_per_token: float
    ) -> float:
        """One forward pass; a row of several completions counts all pairs of its positions."""
        whole, total = sequences(completions), 0.0
        for rows in packs(whole, pairs_per_token=pairs_per_token):
            length = pack_length(whole, rows)
            pairs = length**2 if len(rows) > 1 else cost.causal_pairs(0, length)
            total += model.forward(length, pairs)
        return total

    def _sampling(self, completions: Sequence[Completion]) -> float:
        """Prompts are read once a group, by the model that wrote it."""
        groups: dict[tuple[int, str], list[Completion]] = {}
        for c in completions:
            if c.author != "given":
                groups.setdefault((c.prompt.number, c.author), []).append(c)
        total = 0.0
        for (_, author), members in groups.items():
            prompt = members[0].prompt
            lengths = [len(c.sample.completion_ids) for c in members]
            if author == "student":
                total += cost.sampling_flops(self._student, [(len(prompt.ids), lengths)])
                continue
            router = self._loaded.router
            teacher = router.teacher(prompt)
            assert teacher is not None
            groups_of_teacher = [(len(router.prompt_ids(prompt)), lengths)]
            total += cost.sampling_flops(self._cost(teacher.model), groups_of_teacher)
        return total

    def _judging(self, completions: Sequence[Completion]) -> float:
        router = self._loaded.learner.router
        total = 0.0
        for rows in router.by_route([c.prompt for c in completions]).values():
            part = [completions[i] for i in rows]
            teacher = router.teacher(part[0].prompt)
            if isinstance(teacher, LocalTeacher):
                theirs = [
                    replace(c, prompt=replace(c.prompt, ids=router.prompt_ids(c.prompt)))
                    for c in part
                ]
                total += self._reading(self._cost(teacher.model), theirs, teacher.pairs_per_token)
        return total

    def _cost(self, model: Any) -> cost.ModelCost:
        if id(model) not in self._costs:
            self._costs[id(model)] = cost.model_cost(model)
        return self._costs[id(model)]
