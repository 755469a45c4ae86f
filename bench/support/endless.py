"""A training whose completions all have `max_new_tokens` tokens."""

from dataclasses import replace

from opd.training.loading import LoadedRun
from opd.training.trainer import Training


def endless(loaded: LoadedRun) -> LoadedRun:
    """The same run, in which nothing that the student writes ends its completion."""
    pair = replace(loaded.pair, eos_ids=(loaded.pair.vocab + 1,))
    return replace(loaded, learner=replace(loaded.learner, pair=pair))


class EndlessTraining(Training):
    def _load(self) -> LoadedRun:
        self._loaded = endless(super()._load())
        return self._loaded
