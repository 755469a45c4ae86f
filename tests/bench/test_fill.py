from storage.engine import open_database
from storage.read.rollouts import read_rollouts


def test_the_newest_run_holds_the_long_rollouts(bench, tmp_path):
    options = ("--runs", "2", "--tokens", "8000", "--long", "1300")
    run_id = bench("fill", "--data-dir", str(tmp_path), *options).strip()
    engine = open_database(tmp_path)
    longest = read_rollouts(engine, run_id, sort="-tokens", limit=1)["items"][0]
    engine.dispose()
    assert longest["tokens"] == 1300
