import pytest

from app.worker.devices.examination import examine_on_device
from app.worker.devices.holds import DeviceHold
from opd.config.run import RunConfig, parse
from opd.errors import ErrorKind, UserError
from opd.training.loading import Callbacks


@pytest.mark.parametrize(
    ("kind", "last"), [(ErrorKind.DEVICE_BUSY, "device-busy"), (ErrorKind.BAD_INPUT, "memory")]
)
def test_a_busy_gpu_is_a_finding_and_loads_nothing(kind: ErrorKind, last: str) -> None:
    def hold(config: RunConfig) -> DeviceHold:
        raise UserError("the GPU is busy (cuda:0: run-a)", where="device", kind=kind)

    said: list[str] = []
    findings = list(examine_on_device(parse({"device": "cpu"}), hold, Callbacks(said.append)))
    assert findings[-1].code == last
    assert not any("loading" in text for text in said)
    if kind == ErrorKind.DEVICE_BUSY:
        assert findings[-1].severity == "warning" and "run-a" in findings[-1].text


def test_models_are_loaded_where_they_are_held() -> None:
    devices: list[str] = []

    def hold(config: RunConfig) -> DeviceHold:
        return DeviceHold(config.model_copy(update={"device": "cuda:97"}))

    findings = list(examine_on_device(parse({}), hold, Callbacks(devices.append)))
    assert any("cuda:97" in f.text for f in findings if f.code == "device-refused")
