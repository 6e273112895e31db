"""Rows on the terminal and in the file, and the command line."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from skipstone_sim.benchmarks.__main__ import app
from skipstone_sim.benchmarks.rows import Row, row_table, write_json

ROWS = [
    Row(figure="ratio", value=1.00437, unit="", kind="emulated", subject="nano", aim="≤ 1.01"),
    Row(figure="cycles", value=12566.9, unit="cycles", kind="rtl", subject="nano on sim-tiny"),
    Row(figure="count", value=1234567.0, unit="words", kind="rtl", subject="nano on sim-tiny"),
]


def test_kinds_are_checked():
    with pytest.raises(ValueError, match=r"kind must be one of board, rtl, .*, not 'guess'"):
        Row(figure="f", value=1, unit="", kind="guess", subject="")


def test_table_shows_every_field(capsys):
    Console(width=200).print(row_table(ROWS, "bench"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["ratio", "1.00437", "emulated", "nano", "≤", "1.01"]
    assert lines[3].split()[:3] == ["cycles", "12,566.9", "cycles"]
    assert "1,234,567" in lines[4]


def test_json_has_rows_and_environment(tmp_path):
    path = tmp_path / "rows.json"
    write_json(path, ROWS, "decode", {"tokens": 4})
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["bench"] == "decode"
    assert document["options"] == {"tokens": 4}
    assert {"python", "platform", "cpus", "packages"} <= document["environment"].keys()
    assert document["rows"][0] == {
        "figure": "ratio",
        "value": 1.00437,
        "unit": "",
        "kind": "emulated",
        "subject": "nano",
        "aim": "≤ 1.01",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["rows.json"]


def test_without_a_name_the_benches_are_listed():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    listed = [line.split(":")[0] for line in result.output.splitlines()]
    assert {"accuracy", "decode", "skipping", "estimate"} <= set(listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decode", "--on", "sim-huge:nano"], "unknown core configuration 'sim-huge'"),
        (["decode", "--on", "sim-tiny:nobody"], "no model 'nobody'"),
    ],
)
def test_bad_requests_are_one_line(arguments, message):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert message in result.output.replace("\n", " ")
