"""The doctor where a run may have the GPU that the checked one would take."""

from collections.abc import Callable, Iterator

from app.worker.devices.holds import DeviceHold
from opd.config.run import RunConfig
from opd.doctor.examine import examine
from opd.doctor.findings import Finding
from opd.errors import ErrorKind, UserError
from opd.training.loading import Callbacks


def examine_on_device(
    config: RunConfig, hold: Callable[[RunConfig], DeviceHold], callbacks: Callbacks
) -> Iterator[Finding]:
    """All findings, models loaded on a device that no run has; where a GPU is busy, a finding says
    so in place of those that need the models."""
    try:
        held = hold(config)
    except UserError as error:  # of another kind: the static part refuses the device itself
        yield from examine(config, models=False, callbacks=callbacks)
        if error.kind == ErrorKind.DEVICE_BUSY:
            yield Finding(
                "device-busy",
                "warning",
                "The models were not loaded: the GPU is busy",
                error.message,
                "Check again when it is free, or set device to cpu.",
            )
        return
    yield from examine(held.config, models=True, callbacks=callbacks)
