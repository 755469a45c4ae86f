"""A run whose completions another process writes: the sampler on a device of its own, in small.

    python -m bench.scaling.beside LAG SETTINGS     prints its steps as JSON

The other process holds the student and the product's own decoder; weights and samples go through a
pipe. With lag 1 the product's `AheadSampler` has the next step written while this one trains.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from bench.scaling.cases import MeasuredStep, nested
from opd.config.run import RunConfig
from opd.models.load import Pair
from opd.sampling.ahead import AheadSampler, Writing
from opd.sampling.sample import NEVER, Limits, Request, Sample
from opd.sampling.samplers import LocalSampler
from opd.training.loading import Callbacks, load
from opd.training.trainer import Training
from opd.types import StepEvent


class PipedSampler:
    """A `DetachedSampler`: the student of another process, sent its weights when they changed."""

    def __init__(self, pair: Pair, config: RunConfig) -> None:
        self._student, self._changed = pair.student, True
        self._pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(theirs, config), daemon=True)
        self._process.start()
        self._pipe.recv()  # it is ready
        self.sending: list[float] = []  # seconds of each transfer of weights

    def begun(self, requests: Sequence[Request], limits: Limits) -> Writing:
        if self._changed:
            start = time.perf_counter()
            weights = {n: p.detach().numpy() for n, p in self._student.named_parameters()}
            self._pipe.send(weights)
            self._pipe.recv()
            self.sending.append(time.perf_counter() - start)
            self._changed = False

        def writing(_stop: Callable[[], bool]) -> list[Sample]:
            self._pipe.send((list(requests), limits))
            samples: list[Sample] = self._pipe.recv()
            return samples

        return writing

    def write(
        self, requests: Sequence[Request], limits: Limits, stop: Callable[[], bool]
    ) -> list[Sample]:
        return self.begun(requests, limits)(stop)

    def weights_changed(self) -> None:
        self._changed = True

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join()


def _serve(pipe: Connection, config: RunConfig) -> None:
    torch.set_num_threads(1)
    pair = load(config, None, Callbacks()).pair
    sampler = LocalSampler(pair)
    pipe.send("ready")
    while (message := pipe.recv()) is not None:
        if isinstance(message, dict):
            with torch.no_grad():
                for name, parameter in pair.student.named_parameters():
                    parameter.copy_(torch.from_numpy(message[name]))
            pipe.send("taken")
        else:
            requests, limits = message
            pipe.send(sampler.write(requests, limits, NEVER))


def measured(settings: dict[str, Any], lag: int) -> list[MeasuredStep]:
    local = nested(settings)
    config = nested({**settings, "sampling.engine": "vllm", "sampling.lag": lag})
    made: list[PipedSampler] = []

    def sampler_of(pair: Pair, *_: object) -> Any:
        made.append(PipedSampler(pair, local))
        return AheadSampler(made[0]) if lag else made[0]

    steps, end = list[MeasuredStep](), 0.0
    with (
        patch("opd.training.trainer.sampler_of", sampler_of),
        tempfile.TemporaryDirectory() as folder,
    ):
        for event in Training(config, Path(folder)).events():
            if isinstance(event, StepEvent):
                now = time.perf_counter()
                steps.append(_step(event, now - end, made[0].sending[-1]))
                end = now
    return steps[1:]


def _step(event: StepEvent, whole: float, sending: float) -> MeasuredStep:
    prompts = {r.group: len(r.prompt_ids) for r in event.rollouts}
    written = event.metrics.get("writing_seconds")
    seconds = {**event.seconds, "store": 0.0, "send": sending}
    seconds["write"] = event.seconds["sample"] - sending if written is None else written
    return MeasuredStep(
        {name: float(value) for name, value in seconds.items()},
        whole,
        list(prompts.values()),
        [int(np.size(r.record.completion_ids)) for r in event.rollouts],
    )


if __name__ == "__main__":
    steps = measured(json.loads(sys.argv[2]), int(sys.argv[1]))
    print(json.dumps([asdict(step) for step in steps]))
