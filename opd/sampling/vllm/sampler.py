"""The student's completions by a vLLM server that gets its weights whenever they have changed."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from opd.config.run import RunConfig
from opd.config.wording import size
from opd.devices.choice import free_memory
from opd.errors import ErrorKind, UserError
from opd.models.architecture import from_config
from opd.models.forward import causal
from opd.models.load import Pair, logit_count
from opd.models.parameters import count_parameters
from opd.sampling.ahead import Writing
from opd.sampling.sample import Limits, Request, Sample, Stopped
from opd.sampling.vllm.adapters import AdapterFiles, highest, refusal, served_rank, write_base
from opd.sampling.vllm.address import ServerAddress
from opd.sampling.vllm.agreement import LIKELIEST, MOST_TOKENS, Agreement
from opd.sampling.vllm.answers import SampleReader, likeliest
from opd.sampling.vllm.client import MODEL, VllmClient
from opd.sampling.vllm.python import WHERE
from opd.sampling.vllm.serving import ServerSettings, Surroundings
from opd.sampling.vllm.share import ServerLoad, ServerShare, share_of
from opd.sampling.vllm.weights import FullWeights, WeightSender, write_model
from opd.vllm_protocol import NEUTRAL

log = logging.getLogger(__name__)
COMPLETIONS = "/v1/completions"
SEEDS = 2**62  # leaves room for a group's numbers; a processor's generator reads 32 bits of it
UNCHANGED = NEUTRAL | {"presence_penalty": 0.0, "frequency_penalty": 0.0, "stream": False}


class VllmSampler:
    """A `Sampler`. Every update is verified by what follows the `known` prompts at the
    `temperature`; `has_weights`: the server has started with the student as it is now."""

    def __init__(
        self,
        pair: Pair,
        client: VllmClient,
        sender: WeightSender,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
        has_weights: bool,
    ) -> None:
        self._pair, self._client, self._sender = pair, client, sender
        self._temperature = temperature
        self._agreement = Agreement(prompts, self._likeliest, temperature)
        self._changed = not has_weights  # since the server got its weights
        self._verified = False

    def write(
        self, requests: Sequence[Request], limits: Limits, stop: Callable[[], bool]
    ) -> list[Sample]:
        return self.begun(requests, limits)(stop)

    def begun(self, requests: Sequence[Request], limits: Limits) -> Writing:
        """What writes them by the student as it is now, which the server has from here on."""
        with self._client.telling():
            self._bring_up_to_date()
        greedy = limits.temperature == 0
        groups = groups_of(requests, alone=greedy)
        reader = SampleReader(
            self._pair.vocab, self._pair.eos_ids, limits.max_new_tokens, greedy=greedy
        )
        bodies = [self._body([requests[i] for i in rows], limits) for rows in groups]

        def writing(stop: Callable[[], bool]) -> list[Sample]:
            samples: dict[int, Sample] = {}
            with self._client.telling():
                answers = self._client.ask_all(COMPLETIONS, bodies, stop)
                for rows, answer in zip(groups, answers, strict=True):
                    samples |= zip(rows, reader.samples(answer, len(rows)), strict=True)
                self._sender.check()
            return [samples[i] for i in range(len(requests))]

        return writing

    def weights_changed(self) -> None:
        self._changed = True

    def close(self) -> None:
        self._sender.close()
        self._client.close()

    def _bring_up_to_date(self) -> None:
        if self._changed:
            self._sender.send(self._pair)
        else:
            self._sender.check()
        if self._changed or not self._verified:
            self._agreement.check(self._pair, self._sender.compared(self._pair))
        self._changed, self._verified = False, True

    def _body(self, group: Sequence[Request], limits: Limits) -> dict[str, Any]:
        """vLLM gives each of the n completions the next seed."""
        first = group[0]
        return UNCHANGED | {
            "model": self._sender.model,
            "prompt": [list(first.prompt_ids)],
            "n": len(group),
            "seed": seed_of(first.key),
            "temperature": limits.temperature,
            "max_tokens": limits.max_new_tokens,
            "logprobs": 0,
            "return_token_ids": True,
            "ignore_eos": True,  # only the pair's own stop ids end a completion
            "stop_token_ids": list(self._pair.eos_ids),
            "skip_special_tokens": False,
        }

    def _likeliest(self, texts: list[list[int]]) -> list[dict[int, float]]:
        body = UNCHANGED | {
            "model": self._sender.model,
            "prompt": texts,
            "max_tokens": 1,
            "temperature": self._temperature,
            "logprobs": min(LIKELIEST, self._pair.vocab),
            "return_tokens_as_token_ids": True,
            "ignore_eos": True,
        }
        return likeliest(self._client.ask(COMPLETIONS, body), len(texts), self._pair.vocab)


def start_sampler(
    pair: Pair, config: RunConfig, prompts: Sequence[Sequence[int]], around: Surroundings
) -> VllmSampler:
    """A server for the student, and the sampler that asks it. `prompts` are all that it is to read.

    Raises Stopped, and UserError where the server cannot do what the local loop does.
    """
    check_ids(pair)
    if around.serve is None:
        raise UserError("vllm needs a job that starts the server", where=WHERE)
    context = context_for(prompts, config)
    adapter = adapter_to_send(pair, around.say)
    parameters = count_parameters(pair.student)
    share = share_of(
        parameters.total,
        from_config(causal(pair.student).config.to_dict()),
        ServerLoad(
            config.sampling.batch_size,
            context,
            pair.dtype.itemsize,
            parameters.trainable if adapter else 0,
        ),
    )
    free = free_memory(pair.device)
    _check_room(share, free)
    settings = ServerSettings(
        write_model=partial(write_base if adapter else write_model, pair),
        dtype=str(pair.dtype).removeprefix("torch."),
        device=str(pair.device),
        context=context,
        rows=config.sampling.batch_size,
        share=share,
        card_bytes=None if free is None else free[1],
        seed=config.seed,
        adapter_rank=served_rank(highest(adapter)) if adapter else None,
    )
    socket = around.serve(settings)
    if socket is None:
        raise Stopped
    client = VllmClient(ServerAddress(socket))
    sender: WeightSender = (
        AdapterFiles(client, socket.parent, "adapter")
        if adapter
        else FullWeights(client, socket.parent, MODEL, "update")
    )
    return VllmSampler(
        *(pair, client, sender, prompts),
        temperature=config.sampling.temperature,
        has_weights=adapter is None,
    )


def check_ids(pair: Pair) -> None:
    """Raises UserError where the student has ids that no teacher could score."""
    rows = logit_count(causal(pair.student))
    if rows > pair.vocab:
        raise UserError(
            f"vllm would write all of the student's {rows} ids, of which the teacher shares "
            f"{pair.vocab}: set it to local",
            where=WHERE,
            kind=ErrorKind.TOKENIZER_MISMATCH,
        )


def context_for(prompts: Sequence[Sequence[int]], config: RunConfig) -> int:
    """Tokens of the longest prompt and completion."""
    return max([MOST_TOKENS, *map(len, prompts)]) + config.sampling.max_new_tokens


def adapter_to_send(pair: Pair, say: Callable[[str], None]) -> Any:
    """peft's configuration of the adapter that the server gets, apart from the weights beneath;
    None where it gets whole weights."""
    if causal(pair.student) is pair.student:
        return None
    reason = refusal(pair)
    message = "vLLM gets the adapter after every step"
    if reason is not None:
        message = (
            f"vLLM gets the adapter merged, as full weights: it does not take it apart ({reason})"
        )
    log.info("%s", message)
    say(message)
    return pair.student.peft_config["default"] if reason is None else None


def _check_room(share: ServerShare, free: tuple[float, float] | None) -> None:
    """Raises UserError where the GPU has no room for the server beside what is loaded."""
    if free is None or share.total <= free[0]:
        return
    raise UserError(
        f"the vLLM server needs about {size(share.total)} of the GPU's {size(free[1])} "
        f"({size(share.weights)} of weights, {size(share.cache)} of keys and values, "
        f"{size(share.work)} besides), and {size(free[0])} are free beside the models of the "
        "training; lower sampling.batch_size or sampling.max_new_tokens, name a server on another "
        "GPU (sampling.url), or set it to local",
        where=WHERE,
        kind=ErrorKind.OUT_OF_MEMORY,
    )


def groups_of(requests: Sequence[Request], *, alone: bool) -> list[list[int]]:
    """Rows that are one request of several completions: those of one prompt whose numbers follow
    each other, in that order; each alone, where it is greedy."""
    order = sorted(range(len(requests)), key=lambda i: requests[i].key)
    groups = [[i] for i in order[:1]]
    for before, row in pairwise(order):
        a, b = requests[before], requests[row]
        follows = b.key == (*a.key[:3], a.key[3] + 1) and [*a.prompt_ids] == [*b.prompt_ids]
        if follows and not alone:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def seed_of(key: tuple[int, int, int, int]) -> int:
    """Of a completion by (seed, step, prompt, sample): those of one prompt follow each other."""
    *whose, number = key
    digest = hashlib.sha256(repr(whose).encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEEDS + number
