from bench import telemetry


def test_every_load_has_a_row_of_figures(bench):
    heads, *rows = bench("telemetry", "--quick").splitlines()
    assert "record B/token" in heads
    assert [row.startswith(load.name) for row, load in zip(rows, telemetry.LOADS, strict=True)]
    for row, load in zip(rows, telemetry.LOADS, strict=True):
        rate, record, file, _ = row.removeprefix(load.name).split()
        assert float(rate.replace(",", "")) > 0
        assert float(file) > float(record) > (200 if load.top_k else 30)
