"""What computes the student's completions: the training process itself, or a server beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from opd.config.run import RunConfig
from opd.models.load import Pair
from opd.sampling.ahead import AheadSampler
from opd.sampling.sample import Limits, Request, Sample, nan_error, sample
from opd.sampling.vllm.serving import Surroundings

STARTING = (
    "waiting for vLLM: its samples depend on what it computes together, so a resumed run draws "
    "from the same distribution, not the same samples"
)


class Sampler(Protocol):
    """Samples of the student as it is now, with the log-probabilities of the raw distribution at
    the stated temperature: all of the ids that the pair shares, nothing cut or penalized.

    A sample is decided by its request's key; a greedy one (temperature 0) has no log-probabilities
    that anything is compared with.
    """

    def write(
        self, requests: Sequence[Request], limits: Limits, stop: Callable[[], bool]
    ) -> list[Sample]:
        """In the order of the requests. Raises Stopped, and UserError for what cannot be true."""

    def weights_changed(self) -> None:
        """The student is another one from now on."""

    def close(self) -> None:
        """Nothing more is asked for."""


@dataclass(frozen=True)
class LocalSampler:
    """The student in this process, by its sampling copy where it has one."""

    pair: Pair

    def write(
        self, requests: Sequence[Request], limits: Limits, stop: Callable[[], bool]
    ) -> list[Sample]:
        pair = self.pair
        copy = pair.sampling_copy() if pair.sampling_copy else None
        if copy is not None:
            samples = sample(
                replace(pair, student=copy, sampling_copy=None), requests, limits, stop
            )
        else:
            with pair.computing():
                samples = sample(pair, requests, limits, stop)
        return without_nan(samples, where="student")

    def weights_changed(self) -> None:
        """The copy is brought up to date whenever sampling begins."""

    def close(self) -> None:
        """Holds nothing but memory."""


def sampler_of(
    pair: Pair, config: RunConfig, prompts: Sequence[Sequence[int]], around: Surroundings
) -> Sampler:
    """The one that the configuration asks for; `prompts` are all that it is to read.

    Raises Stopped, and UserError where a server cannot be started, or do what it has to.
    """
    if config.sampling.engine == "local":
        return LocalSampler(pair)
    if config.sampling.url is not None:
        from opd.sampling.vllm.own_server import join_sampler  # noqa: PLC0415 - only where used

        sampler = join_sampler(pair, config, prompts, around)
    else:
        from opd.sampling.vllm.sampler import start_sampler  # noqa: PLC0415 - only where used

        sampler = start_sampler(pair, config, prompts, around)
    return AheadSampler(sampler) if config.sampling.lag else sampler


def without_nan(samples: list[Sample], *, where: str) -> list[Sample]:
    """The samples. Raises UserError for NaN, of which neither the likeliest token nor a draw is
    anything."""
    if any(s.sampler_logprobs is not None and np.isnan(s.sampler_logprobs).any() for s in samples):
        raise nan_error(where=where)
    return samples
