"""A vLLM server takes the weights of a training student from files.

Runs in the server's processes, with their Python and libraries: it imports nothing of ours.
`--worker-extension-cls opd_weight_files.WeightFiles` makes each of vLLM's workers import it, before
they make the engine that `--weight-transfer-config '{"backend": "files"}'` names.

Source: vLLM 0.32.0, vllm/distributed/weight_transfer/base.py and ipc_engine.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)


@dataclass
class FilesInit(WeightTransferInitInfo):
    """Nothing has to be agreed on."""


@dataclass
class FilesUpdate(WeightTransferUpdateInfo):
    """A folder with safetensors files, whose names are those of a checkpoint."""

    folder: str


class FilesEngine(WeightTransferEngine):
    init_info_cls = FilesInit
    update_info_cls = FilesUpdate

    def init_transfer_engine(self, init_info: FilesInit) -> None:
        """There is nothing to connect to."""

    def start_weight_update(self) -> None:
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FilesUpdate) -> None:
        self.model.load_weights(_tensors(Path(update_info.folder), self.device))

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        if self.device.type == "cpu":
            for layer in self.model.modules():
                # It multiplies by a packed copy of its weights, which is made anew for other layers
                # but not for a head that is tied to the embeddings.
                if isinstance(layer, VocabParallelEmbedding) and hasattr(layer, "cpu_linear"):
                    dispatch_cpu_unquantized_gemm(layer, remove_weight=False)

    def shutdown(self) -> None:
        """Holds nothing."""


def _tensors(folder: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} has no safetensors files")
    for file in files:
        with safe_open(file, "pt", device=str(device)) as weights:
            for name in list(weights.keys()):
                yield name, weights.get_tensor(name)


WeightTransferEngineFactory.register_engine("files", FilesEngine)


class WeightFiles:
    """Added to the workers' class; all that it has to do is to be imported."""
