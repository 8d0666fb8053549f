"""Reports: one file that needs nothing else, escapes its texts and draws what it is given."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from attendrite import report
from attendrite.errors import AttendriteError
from attendrite.report import Cell, Picture, Section, Table, TableRow


def page(tmp_path: Path, *blocks: Table | Picture, text: str = "words") -> str:
    path = tmp_path / "report.html"
    report.write(path, "Title", "lead", [Section("Part", [text], blocks)], "footer")
    return path.read_text(encoding="utf-8")


def figures() -> dict[str, str]:
    rng = np.random.default_rng(0)
    xy = rng.normal(size=(20, 2))
    time = np.arange(20.0)
    return {
        "traces": report.traces(time, xy, {"poyo": xy + 1}, ["x", "y"], "px", time > 5),
        "bars": report.bars(["a", "b"], {"poyo": rng.random((3, 2)), "ridge": xy[:1]}, "R2"),
        "scatter": report.scatter(xy, xy, ["x", "y"], "px"),
        "curves": report.curves(time, {"ridge acausal": xy}, ["x", "y"], "time|R2"),
        "attention": report.attention_map(np.array([[1, np.nan, 0.2]]), ["u0", "u1", "u2"], "lift"),
    }


def test_a_report_is_one_file_without_a_network(tmp_path: Path) -> None:
    pictures = [Picture(name, svg) for name, svg in figures().items()]
    text = page(tmp_path, *pictures, Table("cells", ["a", "b"], [TableRow([Cell("1"), Cell("2")])]))
    for found in re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')> ]+)', text):
        assert found.startswith(("#", "data:image/png;base64,")), found[:60]
    assert "<link" not in text
    assert "@import" not in text
    assert text.count("<svg") == len(pictures)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_texts_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    table = Table(evil, [evil], [TableRow([Cell(evil, evil)])], folded=evil)
    text = page(tmp_path, table, Picture(evil, "<svg></svg>"), text=evil)
    assert evil not in text
    assert text.count("&lt;script&gt;") == 7


def test_the_table_holds_what_was_given(tmp_path: Path) -> None:
    rows = [TableRow([Cell("poyo"), Cell("0.75", "0.70 to 0.80")], "ours")]
    text = page(tmp_path, Table("c", ["", "R2"], rows, sortable=True))
    assert '<table class="sort">' in text
    assert (
        '<tr class="ours"><td>poyo</td><td>0.75<span class="spread">0.70 to 0.80</span></td>'
        in text
    )


def test_a_report_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(AttendriteError, match="must exist"):
        report.write(tmp_path / "none" / "report.html", "t", "l", [], "f")
    (tmp_path / "report.html").write_text("old")
    broken = Section("s", [], [Table("c", ["a"], None)])  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        report.write(tmp_path / "report.html", "t", "l", [broken], "f")
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.parametrize("name", figures())
def test_figures_are_svg_elements_with_their_own_ids(name: str) -> None:
    svg = figures()[name]
    assert svg.startswith("<svg")
    assert svg.rstrip().endswith("</svg>")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids)) > 0
    prefix = ids[0].split("-")[0]
    assert all(i.startswith(prefix + "-") for i in ids)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
    assert set(used) <= set(ids)


def test_the_same_figure_gives_the_same_text_and_another_other_ids() -> None:
    once, again = figures(), figures()
    assert once == again
    marks = {re.findall(r'\bid="(\w+)-', svg)[0] for svg in once.values()}
    assert len(marks) == len(once)


def test_labels_reach_the_figure() -> None:
    drawn = figures()
    assert ">x (px)<" in drawn["traces"]
    assert ">u1<" in drawn["attention"]
    assert ">0.50<" in report.bars(["a"], {"poyo": np.array([[0.4], [0.6]])}, "R2")


def test_the_terminal_table_is_aligned() -> None:
    text = report.plain_table(["", "R2"], [["poyo", "0.7"], ["no spikes", "-0.10"]])
    assert text.splitlines() == ["              R2", "poyo         0.7", "no spikes  -0.10"]
