from bench import telemetry


def test_every_load_has_a_row_of_figures(bench):
    heads, *rows = bench("telemetry", "--quick").splitlines()
    assert "record B/token" in heads
    assert [row.startswith(size.name) for row, size in zip(rows, telemetry.SIZES, strict=True)]
    for row, size in zip(rows, telemetry.SIZES, strict=True):
        rate, record, file, _ = row.removeprefix(size.name).split()
        assert float(rate.replace(",", "")) > 0
        assert float(file) > float(record) > (200 if size.top_k else 30)
