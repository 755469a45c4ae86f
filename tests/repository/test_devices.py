"""Tests that are marked `device` run on OPD_TEST_DEVICE: none names the processor by itself."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PROCESSOR = re.compile(r"""torch\.device\("cpu"\)|["']?device["']?[:=] ?["']?cpu""")
MEANT = {  # how often the processor is what a test is about
    "opd/doctor/test_examine.py": 1,
    "opd/doctor/test_arms.py": 1,
    "opd/interactive/test_what_if.py": 1,
}


def test_what_is_marked_follows_the_variable() -> None:
    texts = {str(path.relative_to(TESTS)): path.read_text() for path in TESTS.rglob("*.py")}
    marked = {name: t for name, t in texts.items() if "pytestmark = pytest.mark.device" in t}
    marked.pop("repository/test_devices.py")  # this file
    assert {n: c for n, t in marked.items() if (c := len(PROCESSOR.findall(t)))} == MEANT
    shared = [texts[f"support/{name}.py"] for name in ("in_process_runs", "runs_with_fault")]
    assert not any(PROCESSOR.search(text) for text in shared)
    assert len(marked) > 15
