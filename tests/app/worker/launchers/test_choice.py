import sys

import pytest

from app.worker.launchers.choice import launcher_named
from opd.errors import UserError


def test_a_launcher_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "app.worker.launchers.slurm"
    monkeypatch.delitem(sys.modules, module, raising=False)
    assert launcher_named(None) is launcher_named("") is None
    assert module not in sys.modules
    launcher = launcher_named("slurm")
    assert launcher is not None and launcher.title == "SLURM"
    launcher = launcher_named("ray=http://head:8265")
    assert launcher is not None and launcher.title == "Ray"


@pytest.mark.parametrize("text", ["slrm", "slurm=x", "local", "Slurm", "ray", "ray=host:8265"])
def test_another_name_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=rf"must be slurm.*got {text}"):
        launcher_named(text)
