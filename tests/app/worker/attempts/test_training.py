"""What the process that waits for a run has loaded by then."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[4]
PROGRAM = """
import torch

asked = []


def recorder(name, answer):
    def call(*args, **options):
        asked.append(name)
        return answer

    return call


for name, answer in (("is_available", False), ("device_count", 0), ("_lazy_init", None)):
    setattr(torch.cuda, name, recorder(name, answer))

from app.worker.attempts.training import load_libraries

load_libraries()
assert not asked, asked
"""


def test_loading_the_libraries_asks_for_no_gpu() -> None:
    """What torch sees when it is first asked, it sees to the end, whatever the run is given."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
