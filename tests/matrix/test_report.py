from __future__ import annotations

import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from matrix.outcomes import VERDICTS, Outcome
from matrix.report import (
    CutReport,
    Report,
    ReportError,
    ReportWriter,
    make_grid,
    render_markdown,
    render_terminal,
    summary,
)
from tests.matrix.reporting import MODES, PAIRS, everything, failing, known, line, release, written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "report.jsonl"


# The file


def test_what_is_written_is_read_back(path: Path) -> None:
    cells = everything()
    report = Report.read(written(path, cells))
    assert list(report.cells) == cells
    assert report.header["seed"] == 5
    assert report.header["schema"] == 1
    assert report.footer["not_run"] == 42
    assert [cell.id for cell in report.failed] == [cells[-1].id]


def test_every_line_is_one_json_object_in_ascii(path: Path) -> None:
    written(path, [failing(0, "key 'ключ\u2028' \ud800")])
    lines = path.read_bytes().decode("ascii").split("\n")
    assert [json.loads(text)["line"] for text in lines[:-1]] == ["header", "cell", "footer"]
    assert Report.read(path).cells[0].outcome.message == "key 'ключ\u2028' \ud800"


def test_two_runs_can_be_told_apart(path: Path) -> None:
    runs = {Report.read(written(path, [])).header["run"] for _ in range(2)}
    assert len(runs) == 2


def test_an_interrupted_run_leaves_what_it_had(path: Path) -> None:
    def interrupted() -> None:
        with ReportWriter(path, {"seed": 5}) as writer:
            writer.cell(line(0))
            assert len(path.read_text(encoding="ascii").splitlines()) == 2, "lines are on disk as soon as written"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(CutReport, match="has no footer after 1 cells: the run was cut") as caught:
        Report.read(path)
    assert caught.value.partial.cells == (line(0),)
    assert caught.value.partial.header["seed"] == 5


def test_a_report_cut_at_any_byte_is_cut_or_no_report(path: Path) -> None:
    cells = [line(0), known(1)]
    whole = written(path, cells).read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    assert Report.read(path).cells == tuple(cells)
    for size in range(len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ReportError) as caught:
            Report.read(path)
        # An object is whole from its brace on, one byte before its line ends.
        if size >= ends[0] - 1:
            assert isinstance(caught.value, CutReport), size
            complete = sum(size >= end - 1 for end in ends)
            assert caught.value.partial.cells == tuple(cells[: complete - 1])


def test_a_report_without_its_last_line_break_is_whole(path: Path) -> None:
    path.write_bytes(written(path, [line(0)]).read_bytes().rstrip(b"\n"))
    assert len(Report.read(path).cells) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"line": "header"', '"line": "title"', "does not begin with a header"),
        ('"schema": 1', '"schema": 99', "has schema 99; expected 1"),
        ("content-1", "content-0", "names the cell roundtrip:torch-zip:torch>torch:wo:content-0 twice"),
        ('"line": "cell"', '"line": "remark"', "has the line 'remark' among its cells"),
        ('"as-expected", "outcome"', '"fine", "outcome"', "content-0' is broken: the verdict is 'fine'"),
        ('"examples": 3, ', "", "content-0' is broken: has no 'examples'"),
        ('{"kind": "ok"}', '{"kind": "good"}', "an outcome is 'good'"),
        ('{"kind": "ok"}', '{"kind": "ok", "colour": 1}', "colour"),
        (
            '"verdicts": {"as-expected": 2}',
            '"verdicts": {"as-expected": 3}',
            "its footer says {'as-expected': 3}",
        ),
        ('{"line": "footer"', '{}\n{"line": "footer"', "has the line None among its cells"),
        ('{"line": "footer"', '[]\n{"line": "footer"', "line 4 is a list; expected an object"),
        ('{"line": "footer"', 'oops\n{"line": "footer"', "line 4 is no JSON"),
        (
            '{"line": "footer"',
            '{"line": "footer"}\n{"line": "footer"',
            "has the line 'footer' among its cells",
        ),
    ],
)
def test_what_is_no_report_is_refused_by_type(path: Path, old: str, new: str, message: str) -> None:
    text = written(path, [line(0), line(1)]).read_text(encoding="ascii")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="ascii")
    with pytest.raises(ReportError, match=re.escape(message)) as caught:
        Report.read(path)
    assert not isinstance(caught.value, CutReport)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x02\n\xff\n", b"[1]\n", b"\n"])
def test_any_other_file_is_no_report(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(ReportError, match="is no report"):
        Report.read(path)


def test_a_file_that_is_not_there_is_an_error_of_the_report(path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be read: No such file"):
        Report.read(path)


def test_a_writer_that_is_not_open_says_so(path: Path) -> None:
    with pytest.raises(ReportError, match="use the writer as a context manager"):
        ReportWriter(path, {}).cell(line())


# The row model


def test_the_grid_counts_every_cell_once(path: Path) -> None:
    cells = everything()
    grid = make_grid(Report.read(written(path, cells)))
    assert grid.columns == tuple(MODES)
    assert list(grid.rows) == list(PAIRS)
    counted: Counter[str] = Counter()
    for squares in grid.rows.values():
        for square in squares.values():
            counted.update(square.verdicts)
    assert counted == grid.totals == Counter(cell.verdict for cell in cells)
    assert grid.known == {"lost": ("torch loses it", "https://example.org/known", 2)}
    assert (grid.claimed, grid.skipped) == ({"no name for complex32": 1}, {"no CUDA": 1})
    assert (grid.pruned, grid.not_selected) == ({"the writer does not write this format": 12345}, 42)


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ({"as-expected": 60}, "60"),
        ({"as-expected": 57, "known": 2, "refused-as-claimed": 1}, "57 +3"),
        ({"broken": 1, "healed": 1}, "2 FAIL"),
        ({"as-expected": 4, "changed": 1, "skipped": 2}, "4, 1 FAIL (2)"),
        ({"skipped": 2}, "(2)"),
    ],
)
def test_a_square_says_it_in_a_few_characters(path: Path, verdicts: dict[str, int], text: str) -> None:
    cells = [line(n, name) for n, name in enumerate(Counter(verdicts).elements())]
    (squares,) = make_grid(Report.read(written(path, cells))).rows.values()
    assert squares["weights_only"].text == text
    assert squares["weights_only"].failed == any(VERDICTS[name][0] for name in verdicts)


def test_the_summary_names_failures_first(path: Path) -> None:
    text = summary(Report.read(written(path, everything())))
    assert text.startswith("23 cells, 69 examples: 1 broken, ")
    assert text.endswith(" in 2.5 s")
    assert summary(Report.read(written(path, []))) == "0 cells, 0 examples: nothing was run in 2.5 s"


# The pictures


def shown(report: Report, *, width: int = 80, **console: Any) -> str:
    file = io.StringIO()
    render_terminal(report, Console(file=file, width=width, **console))
    return file.getvalue()


def test_the_terminal_fits_80_columns_but_for_what_is_copied(path: Path) -> None:
    text = shown(Report.read(written(path, everything())))
    wide = [row for row in text.splitlines() if cell_len(row) > 80]
    assert all("roundtrip:" in row or "reproducers/" in row or "https://" in row for row in wide), wide
    table = text[: text.index("numbers are cells")]
    for name, writer, reader in PAIRS:
        assert name in table
        assert f"{writer} > {reader}" in table
    assert "…" not in table, "nothing in the grid is cut off"
    words = set(table.split())
    assert words >= {"weights_", "only", "full", "mmap", "map_", "location", "prefix", "protocol"}


@pytest.mark.parametrize("width", [74, 80])
def test_large_counts_wrap_and_are_not_cut_off(path: Path, width: int) -> None:
    names = [*["as-expected"] * 1234, *["known"] * 567, *["broken"] * 89, *["skipped"] * 21]
    cells = [
        line(number, name, pair=PAIRS[0], mode=mode) for mode in MODES.values() for number, name in enumerate(names)
    ]
    text = shown(Report.read(written(path, cells)), width=width)
    table = text[: text.index("numbers are cells")]
    assert max(map(cell_len, table.splitlines())) <= width
    for part in ("1234", "+567,", "89", "FAIL", "(21)"):
        assert table.split().count(part) == len(MODES), part
    assert {"weights_", "only", "map_", "location", "prefix", "protocol"} <= set(table.split())


def test_with_room_nothing_wraps(path: Path) -> None:
    text = shown(Report.read(written(path, everything())), width=120)
    rows = text[: text.index("numbers are cells")].splitlines()
    assert rows[1].split() == ["writer", ">", "reader", *MODES]
    assert len(rows) == 3 + 2 * len(PAIRS)


def test_the_terminal_says_everything_without_colour(path: Path) -> None:
    cells = everything()
    text = shown(Report.read(written(path, cells)))
    assert "\x1b" not in text
    for part in (
        "1 FAIL",
        "numbers are cells",
        "lost: torch loses it",
        "https://example.org/known",
        "no name for complex32",
        "1  no CUDA",
        "12,345  the writer does not write this format",
        "42 cells",
        f"BROKEN {cells[-1].id}",
        "seen: mismatch at compare: ['a'] dtype: float16, expected bfloat16",
        f"smallest example: python {(cells[-1].failure or {})['reproducer']}",
        "1 broken",
    ):
        assert part in text, part
    assert "a rule that pruned nothing" not in text


def test_colour_needs_a_terminal_and_no_color_turns_it_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report.read(written(path, everything()))
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[1;31m" in shown(report, force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(report, force_terminal=True)
    assert not re.search("\x1b\\[[0-9;]*3[0-7]m", plain)


def test_text_of_a_run_is_never_taken_for_markup(path: Path) -> None:
    hostile = "[bold red]['a'][/] [/nothing] | `x` <b>"
    cells = [failing(0, hostile), line(1, "skipped", outcome=Outcome(kind="skipped", message=hostile))]
    report = Report.read(written(path, cells))
    assert shown(report, width=200).count(hostile) == 2
    markdown = render_markdown(report)
    assert "\\[bold red\\]\\['a'\\]\\[/\\]" in markdown
    assert "\\| \\`x\\` \\<b\\>" in markdown


def test_many_failures_are_not_all_printed_but_counted(path: Path) -> None:
    report = Report.read(written(path, [failing(n) for n in range(25)]))
    text = shown(report)
    assert text.count("BROKEN roundtrip:") == 20
    assert "and 5 more failing cells in report.jsonl" in text
    assert "and 24 more failing cells" in render_markdown(report, max_failures=1)


def test_a_cut_run_says_so_in_every_picture(path: Path) -> None:
    with ReportWriter(path, {}) as writer:
        writer.cell(line(0))
    with pytest.raises(CutReport) as caught:
        Report.read(path)
    for text in (shown(caught.value.partial), render_markdown(caught.value.partial)):
        assert "CUT: the run did not end" in text
    whole = Report.read(written(path, [line(0)]))
    assert "CUT" not in shown(whole) + render_markdown(whole)


def test_markdown_says_what_the_terminal_says(path: Path) -> None:
    text = render_markdown(Report.read(written(path, everything())))
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert "| torch-zip | torch → torch | 1 +3 (1) | 1, 1 FAIL | 1 | 1 | 1 | 1 |" in rows
    assert "| lost | 2 | torch loses it ([link](https://example.org/known)) |" in rows
    assert "| no name for complex32 | 1 |" in rows
    assert "| no CUDA | 1 |" in rows
    assert "| the writer does not write this format | 12,345 |" in rows
    assert "Not selected, so not run: 42 cells." in text
    assert "- **BROKEN** `roundtrip:torch-zip:torch>torch:full:content-14`" in text
    grid = [row for row in rows[:4] if "`" not in row or "weights_only" in row]
    assert len({row.count(" | ") for row in grid}) == 1, "every row has every column"


def test_releases_have_a_table_of_their_own_oldest_first(path: Path) -> None:
    names = ["2.13.0", "2.6.0", "compat", "1.13.1", "1.4.0", "1.4.0-python2"]
    cells = [release(writer, reader) for writer in names for reader in names if reader != "1.4.0-python2"]
    report = Report.read(written(path, [line(0), *cells, release("2.6.0", "tinygrad", "broken")]))
    grid = make_grid(report)
    assert list(grid.releases) == ["1.4.0", "1.4.0-python2", "1.13.1", "2.6.0", "2.13.0", "compat"]
    assert grid.readers == ("1.4.0", "1.13.1", "2.6.0", "2.13.0", "compat", "tinygrad")
    assert list(grid.rows) == [PAIRS[2]]
    text = shown(report, width=60)
    assert max(map(cell_len, text.splitlines()[: text[: text.index("numbers are")].count("\n")])) <= 60
    assert text.count("writer, reader >") == 2, "readers that have no room stand in a second table"
    assert "1 FAIL" in text
    markdown = render_markdown(report)
    assert "| writer ↓ reader → | 1.4.0 | 1.13.1 | 2.6.0 | 2.13.0 | compat | tinygrad |" in markdown
    assert "| 2.6.0 | 1 | 1 | 1 | 1 | 1 | 1 FAIL |" in markdown
    alone = Report.read(written(path, cells))
    assert "format" not in shown(alone)[:60]
    assert "| format |" not in render_markdown(alone)


def test_an_empty_report_can_be_shown(path: Path) -> None:
    report = Report.read(written(path, []))
    assert "nothing was run" in shown(report)
    assert "nothing was run" in render_markdown(report)
