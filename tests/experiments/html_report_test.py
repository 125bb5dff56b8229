"""The page is whole, escaped, reproducible and needs nothing from outside."""

import base64
import html.parser
import re

import matplotlib.figure
import numpy as np
import pytest

from experiments import html_report, text_table


def sections(text: str = "Two blocks & more.") -> list[html_report.Section]:
    figure = matplotlib.figure.Figure(figsize=(2, 2))
    figure.subplots().imshow(np.eye(3))
    return [
        html_report.Section(
            "Cost <small>",
            [
                text,
                html_report.Table(["", "base"], [["blocks", 27], ["drop", None]], "T"),
                html_report.Row([html_report.Figure(figure, caption='The "map"')] * 2),
            ],
        )
    ]


class Checker(html.parser.HTMLParser):
    """Fails on tags that are not closed in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_self_contained():
    page = html_report.render("A title", sections(), subtitle="made by a test")
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.seen.count("img") == 2
    assert checker.seen.count("h2") == 1
    assert all(s.startswith("data:image/svg+xml;base64,") for s in checker.sources)
    assert "url(" not in page
    assert b"<svg" in base64.b64decode(checker.sources[0].split(",")[1])


def test_text_is_escaped():
    page = html_report.render("a < b", sections("<script>alert(1)</script> $title"))
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $title" in page
    assert "<title>a &lt; b</title>" in page
    assert 'alt="The &quot;map&quot;"' in page


def test_same_input_gives_the_same_bytes():
    assert html_report.render("t", sections()) == html_report.render("t", sections())


def test_numbers_stand_to_the_right_and_none_is_a_dash():
    page = html_report.render("t", sections())
    assert '<td>blocks</td><td class="number">27</td>' in page
    assert '<td class="number">-</td>' in page


def test_png_bytes_are_embedded_as_they_are():
    png = b"\x89PNG\r\n\x1a\n..."
    page = html_report.render(
        "t", [html_report.Section("s", [html_report.Figure(png, alt="a")])]
    )
    (encoded,) = re.findall(r"data:image/png;base64,([^\"]*)", page)
    assert base64.b64decode(encoded) == png


def test_unknown_block_is_refused():
    with pytest.raises(TypeError, match="not a block"):
        html_report.render("t", [html_report.Section("s", [3])])


def test_write_replaces_the_page(tmp_path):
    html_report.write(tmp_path / "report.html", "one", [])
    html_report.write(tmp_path / "report.html", "two", [])
    assert "<h1>two</h1>" in (tmp_path / "report.html").read_text()
    assert len(list(tmp_path.iterdir())) == 1


def test_text_table_by_hand():
    table = text_table.render(
        ["verdict", "count", "seconds"],
        [["robust", 120_000, 0.123456], ["timeout", 3, None]],
    )
    assert table.splitlines() == [
        "verdict    count  seconds",
        "-------  -------  -------",
        "robust   120,000   0.1235",
        "timeout        3        -",
    ]


def test_text_table_without_rows_has_its_header():
    assert text_table.render(["a", "b"], []) == "a  b\n-  -"


def test_text_table_refuses_a_short_row():
    with pytest.raises(ValueError, match="has 1 cells, expected 2"):
        text_table.render(["a", "b"], [[1]])
