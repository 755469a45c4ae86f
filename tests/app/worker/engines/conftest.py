"""A Python with vLLM, as the jobs see it: a script that answers what is asked of one."""

import sys
from pathlib import Path

import pytest

from opd.sampling.vllm.python import VARIABLE
from tests.support.network.vllm_scripts import Python

PROBED = '{"there": true, "version": "0.32.0", "weights": true}'


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Python:
    def made(code: str, probed: str = PROBED) -> Path:
        (tmp_path / "code.py").write_text(code)
        path = tmp_path / "python"
        path.write_text(
            f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{probed}'; exit; fi\n"
            f'exec {sys.executable} {tmp_path / "code.py"} "$@"\n'
        )
        path.chmod(0o755)
        monkeypatch.setenv(VARIABLE, str(path))
        return path

    return made
