from importlib.util import find_spec

import pytest


def test_it_runs_or_names_the_missing_extra(bench):
    expected = (
        "^0$" if find_spec("trl") else "bench.against_trl needs TRL: pip install -e '.\\[bench\\]'"
    )
    with pytest.raises(SystemExit, match=expected):
        bench("against_trl", "--help")
