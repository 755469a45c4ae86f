"""The doctor says whether a run's vLLM can be started."""

from pathlib import Path

from opd.config.run import parse
from opd.doctor.machine import engine
from opd.doctor.machine.engine import check_engine, check_server
from opd.sampling.vllm.python import VARIABLE, VllmPython
from tests.support import tiny_models
from tests.support.network.fake_vllm import FakeVllm


def test_the_doctor_says_what_the_run_would_say(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not [*check_engine(parse({}))]
    config = parse({"sampling": {"engine": "vllm"}})
    [finding] = check_engine(config)
    assert (finding.code, finding.severity) == ("engine-refused", "error")
    assert VARIABLE in finding.text
    monkeypatch.setattr(engine, "vllm_python", lambda: VllmPython("/opt/python", "0.32.0"))
    [finding] = check_engine(config)
    assert finding.severity == "ok" and "0.32.0" in finding.title and "/opt/python" in finding.text


def test_the_doctor_says_what_a_server_of_the_user_s_own_takes_and_what_is_open(tmp_path):
    folder = Path(tiny_models.save_model(tmp_path / "student"))
    assert not [*check_server(parse({}))]
    with FakeVllm(folder, key="sk-1") as fake:
        config = parse({"sampling": {"engine": "vllm", "url": fake.url}})
        assert not [*check_engine(config)]
        [finding] = check_server(config)
        assert finding.severity == "error" and "asks for a key" in finding.text
    with FakeVllm(folder) as fake:
        config = parse({"sampling": {"engine": "vllm", "url": fake.url}})
        takes, opened = check_server(config)
        assert takes.severity == "ok" and "all weights, from files" in takes.text
        assert fake.url in takes.title
        assert opened.severity == "warning" and "/collective_rpc, " in opened.text
        assert "--api-key covers only what is below /v1" in opened.text
    [finding] = check_server(config)
    assert finding.code == "engine-refused" and "cannot be reached" in finding.text
    [finding] = check_engine(parse({"sampling": {"engine": "vllm", "url": "unix:/none"}}))
    assert finding.code == "engine-refused" and "No such file" in finding.text
