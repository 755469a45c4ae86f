"""A sampler that asks a vLLM server of the user's own, which runs before the job and after it."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.models.encoding import text_ids
from opd.models.load import Pair
from opd.sampling.vllm.adapters import AdapterFiles, highest
from opd.sampling.vllm.address import URL, address_of, server_error
from opd.sampling.vllm.agreement import known_texts
from opd.sampling.vllm.client import VllmClient
from opd.sampling.vllm.offers import Offers, Way, offers_of
from opd.sampling.vllm.sampler import VllmSampler, adapter_to_send, check_ids, context_for
from opd.sampling.vllm.serving import Surroundings
from opd.sampling.vllm.weights import ENDED, FullWeights, WeightSender, version_of

FOLDER = "OPD_VLLM_FOLDER"  # the variable that names a folder which the server sees, too
OURS = "opd-"  # begins the names of what runs send
TEXTS = 4  # that both tokenizers read


def join_sampler(
    pair: Pair,
    config: RunConfig,
    prompts: Sequence[Sequence[int]],
    around: Surroundings,
    *,
    as_guest: bool = False,
) -> VllmSampler:
    """The sampler that asks the server at sampling.url. `prompts` are all that it is to read;
    `as_guest`: a server with the weights of a run that has not ended is left alone.

    Raises UserError where the server cannot do what the local loop does.
    """
    check_ids(pair)
    address = address_of(config.sampling)
    offers = offers_of(address)
    client = VllmClient(address)
    try:
        with client.telling():
            offers.check(config.student.dtype)
            _check_context(offers, context_for(prompts, config))
            _check_tokenizer(client, offers, pair, prompts)
            adapter = adapter_to_send(pair, around.say)
            way = offers.way(None if adapter is None else highest(adapter))
            if as_guest and way == "weights":
                _check_free(client)
            if adapter is not None and way == "weights":
                around.say("the vLLM server gets the adapter merged, as full weights")
            sender = _sender(client, offers, way, around.folder)
        return VllmSampler(
            *(pair, client, sender, prompts),
            temperature=config.sampling.temperature,
            has_weights=False,
        )
    except BaseException:
        client.close()
        raise


def _sender(client: VllmClient, offers: Offers, way: Way, folder: Path | None) -> WeightSender:
    scratch, name = _scratch(folder), f"{OURS}{secrets.token_hex(4)}"
    if way == "adapter":
        return AdapterFiles(client, scratch, name)
    return FullWeights(client, scratch, offers.model, name)


def _check_free(client: VllmClient) -> None:
    version = str(version_of(client.ask("/weight_info", method="GET")))
    if version.startswith(OURS) and not version.endswith(ENDED):
        raise server_error(f"has weights of a run that has not ended ({version})")


def _scratch(folder: Path | None) -> Path:
    """A folder that the server is to see under the same name, empty; the same at every attempt."""
    if folder is None:
        raise UserError("vllm needs a run with a folder", where=URL)
    shared = os.environ.get(FOLDER)
    run = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:8]
    scratch = Path(shared or folder).absolute() / f"sampler-{run}"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"{scratch}, for weights on their way to the vLLM server, cannot be made: "
            f"{error.strerror}",
            where=FOLDER if shared else URL,
        ) from None
    return scratch


def _check_context(offers: Offers, needed: int) -> None:
    if offers.context is not None and offers.context < needed:
        raise server_error(
            f"reads {offers.context} tokens at most, and the longest prompt and completion are "
            f"{needed}: start it with --max-model-len {needed}, or lower sampling.max_new_tokens"
        )


def _check_tokenizer(
    client: VllmClient, offers: Offers, pair: Pair, prompts: Sequence[Sequence[int]]
) -> None:
    """Token ids go to the server and back: they must mean the same. One that does not tell what it
    makes of a text is judged by its weights alone."""
    for ids in known_texts(prompts)[:TEXTS]:
        text = pair.tokenizer.decode(ids)
        body = {"model": offers.model, "prompt": text, "add_special_tokens": False}
        answer = client.ask_if_there("/tokenize", body)
        if answer is None:
            return
        theirs = answer.get("tokens") if isinstance(answer, dict) else None
        if theirs != text_ids(pair.tokenizer, text):
            raise server_error(
                f"has another tokenizer than the student: {text[:60]!r} is other tokens there",
                ErrorKind.TOKENIZER_MISMATCH,
            )
