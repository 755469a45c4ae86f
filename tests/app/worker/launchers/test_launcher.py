"""The contract that every launcher keeps. This machine is tried here, a cluster where there is one:
`tests/flows/hosts`."""

from pathlib import Path

import pytest

from app.worker.launchers.this_machine import ThisMachine
from tests.support.hosts.launcher_contract import LauncherContract


class TestThisMachine(LauncherContract):
    @pytest.fixture
    def launcher(self) -> ThisMachine:
        made = ThisMachine()
        made.grace = 1.0
        return made

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path
