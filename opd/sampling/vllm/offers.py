"""What a user's own vLLM server can do, asked before anything is spent. Free of torch.

Source: vLLM 0.32.0, vllm/entrypoints/serve, vllm/entrypoints/rl; GUARDED_PREFIX in
vllm/entrypoints/serve/middleware: a key is asked for below /v1, /v2 and /inference only.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from opd.config.run import RunConfig
from opd.errors import UserError
from opd.network import HttpClient
from opd.sampling.vllm.address import KEY, KIND, ServerAddress, address_of, server_error
from opd.vllm_protocol import brief, models_listed, parsed, problem_told

PATIENCE = 60.0  # seconds for an answer; /server_info looks at the machine first
BACKEND = "files"  # of ours, see handed/opd_weight_files.py
LOAD_ADAPTER = "/v1/load_lora_adapter"
# What changes or stops a server, and what tells all of its settings.
SENSITIVE = (
    *("/pause", "/resume", "/sleep", "/collective_rpc", "/init_weight_transfer_engine"),
    *("/start_weight_update", "/update_weights", "/finish_weight_update"),
    *("/reset_prefix_cache", "/server_info", LOAD_ADAPTER),
)
Way = Literal["adapter", "weights"]


@dataclass(frozen=True)
class Offers:
    """`model`: the name of its base model; `context`: tokens of prompt and completion, None where
    it does not tell; `transfer`: the kind of its weight transfer, None: it takes no weights;
    `adapters`: it has the route that loads them; `highest_rank`: of an adapter, None: it does not
    tell, 0: it takes none."""

    model: str
    context: int | None
    transfer: str | None
    adapters: bool
    highest_rank: int | None
    logprobs_mode: str | None
    dtype: str | None

    def way(self, rank: int | None) -> Way:
        """How a student's weights reach it; `rank` is that of its adapter, None: all weights
        change. Raises UserError where they do not."""
        reasons = []
        if rank is not None:
            reason = self._adapter_refusal(rank)
            if reason is None:
                return "adapter"
            reasons.append(reason)
        if self.transfer == BACKEND:
            return "weights"
        if self.transfer is None:
            reasons.append(
                "it takes no weights of a training model: that needs VLLM_SERVER_DEV_MODE=1 and "
                "our loader of weights"
            )
        else:
            reasons.append(
                f"it takes weights by {self.transfer}, which is not supported here, only our "
                "loader of weights"
            )
        raise server_error(
            f"cannot write for this student: {'; '.join(reasons)}; see docs/engines.md"
        )

    def check(self, dtype: str) -> None:
        """Raises UserError for a setting with which its numbers would be others than those of a
        student of this dtype."""
        if self.dtype not in (None, dtype):
            raise server_error(
                f"computes in {self.dtype}, and the student in {dtype}: start it with --dtype "
                f"{dtype}, or set student.dtype"
            )
        if self.logprobs_mode not in (None, "processed_logprobs"):
            raise server_error(
                f"was started with --logprobs-mode {self.logprobs_mode}, and must be with "
                "processed_logprobs"
            )

    def _adapter_refusal(self, rank: int) -> str | None:
        start = f"--enable-lora --max-lora-rank {rank} and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
        if not self.adapters:
            return f"it loads no adapters: that needs {start}"
        if self.highest_rank == 0:
            return f"it was started for no adapters: that needs {start}"
        if self.highest_rank is not None and self.highest_rank < rank:
            return (
                f"it was started for adapters of rank {self.highest_rank}, and the student's has "
                f"{rank} (--max-lora-rank)"
            )
        return None


def server_for(config: RunConfig) -> tuple[ServerAddress, Offers, Way]:
    """The user's own server of a run, and how weights will reach it, as far as is known before
    models are loaded. Raises UserError where it cannot write for the run."""
    address, lora = address_of(config.sampling), config.student.lora
    offers = offers_of(address)
    try:
        offers.check(config.student.dtype)
        return address, offers, offers.way(None if lora is None else lora.rank)
    except UserError as error:
        raise address.with_address(error) from None


def offers_of(address: ServerAddress) -> Offers:
    """What the server says of itself. Raises UserError where it does not answer as vLLM does."""
    with _asking(address) as client:
        return _offers(client, address.key)


def open_routes(address: ServerAddress) -> list[str]:
    """The sensitive routes that ask for no key. Raises UserError where the server does not
    answer."""
    with _asking(address, with_key=False) as client:
        return [p for p in SENSITIVE if client.get(p).status_code not in (401, 403, 404)]


@contextmanager
def _asking(address: ServerAddress, *, with_key: bool = True) -> Iterator[HttpClient]:
    """A client; what fails inside is a UserError that names the address."""
    try:
        with address.client(with_key=with_key, timeout=PATIENCE) as client:
            if not address.listens():
                raise server_error("cannot be reached: nothing listens on its socket")
            yield client
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise address.with_address(server_error(f"cannot be reached: {reason}")) from None
    except UserError as error:
        raise address.with_address(error) from None


def _offers(asking: HttpClient, key: str | None) -> Offers:
    base, settings = _base_model(asking, key), _settings(asking)
    lora, transfer = settings.get("lora_config"), settings.get("weight_transfer_config")
    model = settings.get("model_config")
    about = (
        {k: v for k, v in model.items() if isinstance(v, str)} if isinstance(model, dict) else {}
    )
    return Offers(
        model=str(base["id"]),
        context=base["max_model_len"] if isinstance(base.get("max_model_len"), int) else None,
        transfer=str(transfer.get("backend")) if isinstance(transfer, dict) else None,
        adapters=asking.get(LOAD_ADAPTER).status_code != 404,
        highest_rank=_rank(lora) if settings else None,
        logprobs_mode=about.get("logprobs_mode"),
        dtype=str(about["dtype"]).removeprefix("torch.") if "dtype" in about else None,
    )


def _base_model(asking: HttpClient, key: str | None) -> Mapping[str, Any]:
    """The first model of the list that is no adapter."""
    answer = asking.get("/v1/models")
    if answer.status_code in (401, 403):
        raise UserError(
            f"the vLLM server asks for a key (HTTP {answer.status_code}); it must name the "
            "variable of the server's key",
            where=KEY,
            kind=KIND,
        )
    if answer.status_code != 200:
        text = brief(problem_told(answer.content), key)
        raise server_error(f"/v1/models answered HTTP {answer.status_code}: {text}")
    for model in models_listed(parsed(answer.content)):
        if isinstance(model.get("id"), str) and not model.get("parent"):
            return model
    raise server_error("/v1/models lists no model")


def _settings(asking: HttpClient) -> Mapping[str, Any]:
    """vLLM's own configuration, where the server tells it."""
    answer = parsed(asking.get("/server_info", params={"config_format": "json"}).content)
    settings = answer.get("vllm_config") if isinstance(answer, dict) else None
    return settings if isinstance(settings, dict) else {}


def _rank(lora: Any) -> int | None:
    """0 where the server has no adapters at all."""
    rank = lora.get("max_lora_rank") if isinstance(lora, dict) else 0
    return rank if isinstance(rank, int) else None
