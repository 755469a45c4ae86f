"""What every process of a run must have alike."""

import hashlib

from opd.data.prompts import PromptSet
from opd.models.parameters import checksum
from opd.training.loading import LoadedRun


def what_is_trained(loaded: LoadedRun, prompts: PromptSet) -> str:
    """A digest of the prompts' ids and of the weights: what every process must have alike."""
    suites = [suite.prompts for suite in prompts.suites.values()]
    parts = [prompts.train, prompts.held_out, prompts.probe, *suites]
    ids = repr([[tuple(p.ids) for p in part] for part in parts])
    weights = checksum(loaded.learner.trained_by_all)
    return hashlib.sha256((ids + weights).encode()).hexdigest()[:16]
