"""The doctor says whether a run's vLLM can be started."""

from opd.config.run import parse
from opd.doctor.machine import engine
from opd.doctor.machine.engine import check_engine
from opd.sampling.vllm.python import VARIABLE, VllmPython


def test_the_doctor_says_what_the_run_would_say(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not [*check_engine(parse({}))]
    config = parse({"sampling": {"engine": "vllm"}})
    [found] = check_engine(config)
    assert (found.code, found.severity) == ("engine-refused", "error")
    assert VARIABLE in found.text
    monkeypatch.setattr(engine, "vllm_python", lambda: VllmPython("/opt/python", "0.32.0"))
    [found] = check_engine(config)
    assert found.severity == "ok" and "0.32.0" in found.title and "/opt/python" in found.text
