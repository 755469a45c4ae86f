"""What a step of this run executes in FLOPs, by the formula of `opd.cost`."""

from collections.abc import Sequence
from typing import Any

from opd import cost
from opd.loading import Loaded
from opd.rollouts import Written


class Meter:
    """Counts sampling by whoever writes, the teachers' and the reference's reading, training.

    What a server executes is not counted: nobody here knows its model.
    """

    def __init__(self, loaded: Loaded) -> None:
        config = loaded.learner.config
        self._loaded = loaded
        self._student = cost.model_cost(loaded.pair.student)
        self._adapter = config.student.lora is not None
        self._recomputed = config.student.gradient_checkpointing
        self._costs: dict[int, cost.ModelCost] = {}

    def step(self, written: Sequence[Written]) -> float:
        whole = [len(w.prompt.ids) + len(w.sample.completion_ids) for w in written]
        total = cost.training_flops(self._student, whole, adapter=self._adapter)
        if self._recomputed:
            total += cost.scoring_flops(self._student, whole)
        if self._loaded.learner.reference is not None:
            total += cost.scoring_flops(self._student, whole)
        return total + self._sampling(written) + self._judging(written)

    def _sampling(self, written: Sequence[Written]) -> float:
        """Prompts are read once a group, by the model that wrote it."""
        groups: dict[tuple[int, str], list[Written]] = {}
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
            panel = self._loaded.panel
            model = self._cost(panel.teachers[panel.route(prompt)].model)
            total += cost.sampling_flops(model, [(len(panel.prompt_ids(prompt)), lengths)])
        return total

    def _judging(self, written: Sequence[Written]) -> float:
        panel = self._loaded.learner.teachers
        if panel is None:
            return 0.0
        total = 0.0
        for w in written:
            model = panel.teachers[panel.route(w.prompt)].model
            if model is not None:
                length = len(panel.prompt_ids(w.prompt)) + len(w.sample.completion_ids)
                total += cost.scoring_flops(self._cost(model), [length])
        return total

    def _cost(self, model: Any) -> cost.ModelCost:
        if id(model) not in self._costs:
            self._costs[id(model)] = cost.model_cost(model)
        return self._costs[id(model)]
