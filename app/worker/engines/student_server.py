"""The vLLM server that writes what a run's student writes: started for its job, ended with it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from app.worker.engines.server import JobServer, ServerRole, environment
from opd.config.run import RunConfig
from opd.errors import ErrorKind
from opd.sampling.vllm.python import WHERE, vllm_python
from opd.sampling.vllm.serving import ServerSettings
from opd.sampling.vllm.share import TOKENS_AT_ONCE
from storage.data_dir import RunDir

log = logging.getLogger(__name__)
ROLE = ServerRole("the vLLM server", WHERE, ErrorKind.SAMPLING_SERVER)


class StudentServer(JobServer):
    def __init__(
        self, folder: RunDir, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> None:
        super().__init__(ROLE, folder.path / "vllm.txt", stop)
        self._say = say

    def start(self, settings: ServerSettings) -> Path | None:
        """The socket of the server, once it answers; None when asked to stop before.

        Raises UserError where there is no vLLM, and where the server ends."""
        python = vllm_python()
        self._say(f"starting vLLM {python.version}")
        model = self.prepare() / "model"
        settings.write_model(model)
        variables = {
            **environment(python, settings.device, settings.share.cache),
            "VLLM_SERVER_DEV_MODE": "1",  # without it there are no routes that take weights
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        return self.launch(python, _arguments(settings, model), variables)


def check_engine(config: RunConfig, say: Callable[[str], None] = lambda _: None) -> None:
    """Raises UserError, before anything is loaded, for a run whose server could not be started, or
    could not write for it; says how weights will reach one that runs already."""
    if config.sampling.url is not None:
        from opd.sampling.vllm.offers import server_for  # noqa: PLC0415 - only where it is used

        address, offers, way = server_for(config)
        takes = "the adapter" if way == "adapter" else "all weights, from files,"
        message = f"vLLM at {address.configured} ({offers.model}) gets {takes} after every step"
        log.info("%s", message)
        say(message)
    elif config.sampling.engine == "vllm":
        vllm_python()


def _arguments(settings: ServerSettings, model: Path) -> list[str]:
    on_processor = settings.device == "cpu"
    return [
        *("--model", str(model), "--served-model-name", "student"),
        *("--dtype", settings.dtype, "--seed", str(settings.seed)),
        *("--max-model-len", str(settings.context), "--max-num-seqs", str(settings.rows)),
        *("--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"),
        *_taking_weights(settings.adapter_rank),
        # A prompt read in parts would set its generator back, which a processor's cannot.
        *(
            ["--enforce-eager", "--no-enable-chunked-prefill"]
            if on_processor
            else _of_the_card(settings)
        ),
    ]


def _of_the_card(settings: ServerSettings) -> list[str]:
    """Its cache as it is to be, and all that it may take of a GPU that the training is on too."""
    assert settings.card_bytes is not None
    most = min(1.0, settings.share.total / settings.card_bytes)
    return [
        *("--kv-cache-memory-bytes", str(settings.share.cache)),
        *("--gpu-memory-utilization", f"{most:.4f}"),
        *("--max-num-batched-tokens", str(max(TOKENS_AT_ONCE, settings.rows))),
    ]


def _taking_weights(adapter_rank: int | None) -> list[str]:
    if adapter_rank is not None:
        return ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(adapter_rank)]
    backend = json.dumps({"backend": "files"})
    extension = "opd_weight_files.WeightFiles"
    return ["--weight-transfer-config", backend, "--worker-extension-cls", extension]
