"""What a step of this run executes in FLOPs, by the formula of `opd.models.cost`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opd.models import cost
from opd.models.batches import pack_length, packs
from opd.teachers.local import LocalTeacher
from opd.training.loading import LoadedRun
from opd.training.rollouts import Completion, sequences


class StepFlops:
    """Counts sampling by whoever writes, the teachers' and the reference's reading, training.

    What a server executes is not counted: nobody here knows its model.
    """

    def __init__(self, loaded: LoadedRun) -> None:
        config = loaded.learner.config
        self._loaded = loaded
        self._student = cost.model_cost(loaded.pair.student)
        self._adapter = config.student.lora is not None
        self._recomputed = config.student.gradient_checkpointing
        self._costs: dict[int, cost.ModelCost] = {}

    def step(self, written: Sequence[Completion]) -> float:
        reading = self._reading(self._student, written, self._loaded.pair.pairs_per_token)
        times = 2.0 if self._adapter else 3.0  # forward and backward
        times += self._recomputed + (self._loaded.learner.reference is not None)
        return times * reading + self._sampling(written) + self._judging(written)

    def parts(self, written: Sequence[Completion]) -> dict[str, float]:
        """What of a step's FLOPs is left out where a teacher's completions are already there."""
        by_teacher = [w for w in written if w.author == "teacher"]
        return {"teacher_sampling_flops": self._sampling(by_teacher)} if by_teacher else {}

    def _reading(
        self, model: cost.ModelCost, written: Sequence[Completion], pairs_per_token: float
    ) -> float:
        """One forward pass; a row of several completions counts all pairs of its positions."""
        whole, total = sequences(written), 0.0
        for rows in packs(whole, pairs_per_token=pairs_per_token):
            length = pack_length(whole, rows)
            pairs = length**2 if len(rows) > 1 else cost.causal_pairs(0, length)
            total += model.forward(length, pairs)
        return total

    def _sampling(self, written: Sequence[Completion]) -> float:
        """Prompts are read once a group, by the model that wrote it."""
        groups: dict[tuple[int, str], list[Completion]] = {}
        for w in written:
            if w.author != "given":
                groups.setdefault((w.prompt.number, w.author), []).append(w)
        total = 0.0
        for (_, author), members in groups.items():
            prompt = members[0].prompt
            lengths = [len(w.sample.completion_ids) for w in members]
            if author == "student":
                total += cost.sampling_flops(self._student, [(len(prompt.ids), lengths)])
                continue
            router = self._loaded.router
            model = self._cost(router.teachers[router.route(prompt)].model)
            total += cost.sampling_flops(model, [(len(router.prompt_ids(prompt)), lengths)])
        return total

    def _judging(self, written: Sequence[Completion]) -> float:
        router = self._loaded.learner.router
        if router is None:
            return 0.0
        by_route: dict[str, list[Completion]] = {}
        for w in written:
            by_route.setdefault(router.route(w.prompt), []).append(w)
        total = 0.0
        for route, members in by_route.items():
            teacher = router.teachers[route]
            if isinstance(teacher, LocalTeacher):
                theirs = [
                    replace(w, prompt=replace(w.prompt, ids=router.prompt_ids(w.prompt)))
                    for w in members
                ]
                total += self._reading(self._cost(teacher.model), theirs, teacher.pairs_per_token)
        return total

    def _cost(self, model: Any) -> cost.ModelCost:
        if id(model) not in self._costs:
            self._costs[id(model)] = cost.model_cost(model)
        return self._costs[id(model)]
