from pathlib import Path

import pytest

from opd.devices import gpus
from opd.devices.gpus import MIB, Gpu, ask_driver, gpu_of
from tests.support.devices.fake_gpus import fake_driver

ROWS = (
    "0, GPU-aaaa, NVIDIA H100 80GB HBM3, 81559, 1200, 97",
    "1, GPU-bbbb, NVIDIA H100 80GB HBM3, 81559, 80994, 0",
)


def test_the_driver_s_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_driver(tmp_path, monkeypatch, *ROWS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    report = ask_driver()
    assert report.gpus[0] == Gpu(0, "NVIDIA H100 80GB HBM3", 81559 * MIB, 1200 * MIB, 97.0)
    assert gpu_of("cuda", report) == gpu_of("cuda:0", report) == report.gpus[0]
    assert gpu_of("auto", report) == gpu_of("cuda:1", report) == report.gpus[1]
    assert gpu_of("cuda:3", report) is None


@pytest.mark.parametrize(
    ("visible", "free"),
    [("1", [80994]), ("1,0", [80994, 1200]), ("GPU-bb", [80994]), ("", []), ("-1", []), ("7", [])],
)
def test_only_visible_gpus_count(
    visible: str, free: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_driver(tmp_path, monkeypatch, *ROWS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen = ask_driver().gpus
    assert [gpu.free for gpu in seen] == [mib * MIB for mib in free]
    assert [gpu.number for gpu in seen] == list(range(len(free)))


def test_a_figure_that_the_driver_does_not_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_driver(tmp_path, monkeypatch, "0, GPU-a, NVIDIA GB10, [N/A], [N/A], [Not Supported]")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert ask_driver().gpus == (Gpu(0, "NVIDIA GB10", None, None, None),)


def test_a_driver_in_trouble_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    fake_driver(tmp_path, monkeypatch, said, code=9)
    assert ask_driver() == gpus.DriverReport(trouble=said)


def test_a_driver_that_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nexec sleep 30\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(gpus, "PATIENCE", 0.1)
    assert "does not answer" in ask_driver().trouble


def test_without_the_driver_s_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert ask_driver() == gpus.DriverReport()


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 2), ("0", 1), ("", 0), ("-1", 0), ("0,1,2", 2), ("1,-1", 1)]
)
def test_the_system_s_gpus_are_counted(
    visible: str | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [Path("/dev") / name for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(files))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.gpu_count() == count
