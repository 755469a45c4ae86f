"""Samples what a run's machine does, on a thread beside the training.

The processor and memory come from psutil, a GPU's figures from its driver's own tool and no more
often than GPU_EVERY: nothing here starts CUDA. What a machine lacks has no figure.
"""

import logging
import threading
import time
from types import TracebackType

import psutil

from opd.devices.gpus import ask_driver, gpu_of
from storage.data_dir import RunDir
from storage.system_usage import EVERY, SystemUsageWriter

log = logging.getLogger(__name__)
GPU_EVERY = 15.0  # seconds; each time a process of the driver's starts


class SystemUsageSampler:
    """Samples within its block; `device` is the run's, as torch names it after its slot was set.

    A file that cannot be written ends the samples and not the run.
    """

    def __init__(self, run: RunDir, device: str, every: float = EVERY) -> None:
        self._writer = SystemUsageWriter(run, every)
        self._device = device
        self._process = psutil.Process()
        self._gpu_at = -GPU_EVERY
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system usage", daemon=True)

    def __enter__(self) -> "SystemUsageSampler":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        self.sample()  # shares of the processor are those since the sample before
        while not self._over.wait(self._writer.every):
            try:
                self._writer.append(time.time(), self.sample())
            except (OSError, psutil.Error) as error:
                log.warning("system usage is no longer recorded: %s", error)
                return

    def sample(self) -> dict[str, float]:
        """The figures of now, by their names among the metrics."""
        memory = psutil.virtual_memory()
        return {
            "system/cpu": psutil.cpu_percent() / 100,
            "system/process_cpu": self._process.cpu_percent() / 100,
            "system/process_memory": float(self._process.memory_info().rss),
            "system/memory": float(memory.total - memory.available),
            **self._gpu(),
        }

    def _gpu(self) -> dict[str, float]:
        now = time.monotonic()
        if not self._device.startswith("cuda") or now - self._gpu_at < GPU_EVERY:
            return {}
        self._gpu_at = now
        gpu = gpu_of(self._device, ask_driver())
        if gpu is None:
            return {}
        figures = {}
        if gpu.use is not None:
            figures["system/gpu"] = gpu.use / 100
        if gpu.total is not None and gpu.free is not None:
            figures["system/gpu_memory"] = gpu.total - gpu.free
        return figures
