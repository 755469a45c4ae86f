"""When a run ends before its last step: by time, by a held-out score, or by none that is better."""

import time
from collections.abc import Sequence

from opd.config.run import RunConfig
from opd.errors import UserError
from opd.training.evaluation import suite_name
from opd.types import HELD_OUT, EarlierAttempts, Score

METRIC = "pass@1"


def score_suite(config: RunConfig) -> str:
    """The suite whose pass@1 is the held-out score: that of the first evaluation temperature."""
    return suite_name(HELD_OUT, config.evaluation.temperatures[0], config.sampling.temperature)


class StopRule:
    """Looks at time and scores whenever it is told to; `reason` stays once there is one."""

    def __init__(self, config: RunConfig, earlier: EarlierAttempts) -> None:
        self._stop = config.stop
        self._suite = score_suite(config)
        self._began = time.monotonic() - earlier.seconds
        self._scores: dict[int, float] = {}
        for step, scores in earlier.evaluations.items():
            self._take(step, scores)
        self.reason = ""

    def evaluated(self, step: int, scores: Sequence[Score]) -> None:
        """Takes the held-out score after a step. Raises UserError where one is needed and none of
        the held-out prompts could be graded."""
        if self._take(step, scores):
            return
        for name in ("score", "patience"):
            if getattr(self._stop, name) is not None:
                raise UserError(
                    "no held-out prompt can be graded: give the data answers "
                    "(prompts.columns.answer) or remove this setting",
                    where=f"stop.{name}",
                )

    def _take(self, step: int, scores: Sequence[Score]) -> bool:
        values = [s.value for s in scores if (s.suite, s.metric) == (self._suite, METRIC)]
        if values:
            self._scores[step] = values[0]
        return bool(values)

    def look(self) -> None:
        """Whether the run is to end now; to be called after a step and after its evaluation."""
        self.reason = self.reason or self._score() or self._patience() or self._minutes()

    def _minutes(self) -> str:
        limit, taken = self._stop.minutes, (time.monotonic() - self._began) / 60
        if limit is None or taken < limit:
            return ""
        return f"stop.minutes: {taken:.1f} minutes have passed, of {limit:g}"

    def _score(self) -> str:
        goal, step = self._stop.score, max(self._scores, default=0)
        if goal is None or step == 0 or self._scores[step] < goal:
            return ""
        reached = f"{self._suite} {METRIC} {self._scores[step]:.4g}"
        return f"stop.score: {reached} after step {step} reaches {goal:g}"

    def _patience(self) -> str:
        if self._stop.patience is None or not self._scores:
            return ""
        best = max(self._scores, key=lambda step: (self._scores[step], -step))
        later = sum(step > best for step in self._scores)
        if later < self._stop.patience:
            return ""
        reached = f"{self._suite} {METRIC} {self._scores[best]:.4g}"
        return f"stop.patience: {later} evaluations without a better score than {reached} " + (
            f"after step {best}" if best else "before training"
        )
