"""One HTML page that needs nothing else: text, tables and figures.

html_report.write(
    workdir / "report.html",
    "Pruning ResNet-56",
    [
        html_report.Section(
            "Cost",
            [
                "Two of 27 blocks were removed.",
                html_report.Table(["", "base", "pruned"], rows),
                html_report.Figure(figure, caption="Similarity of the blocks."),
            ],
        )
    ],
)
"""

import base64
import dataclasses
import html
import io
import os
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments import json_files, text_table

if TYPE_CHECKING:
    import matplotlib.figure


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A table; cells are shown as text, numbers to the right, None as a dash."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Figure:
    """A picture: a matplotlib figure, or the bytes of a PNG or SVG file."""

    image: "matplotlib.figure.Figure | bytes"
    caption: str = ""
    alt: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Code:
    """Text as typed or printed on a terminal."""

    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """Figures side by side, where the window is wide enough."""

    figures: Sequence[Figure]


Block = str | Code | Table | Figure | Row


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands under it; a plain string is a paragraph."""

    heading: str
    blocks: Sequence[Block]


def write(
    path: str | os.PathLike[str],
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
) -> None:
    """Renders the page and writes it atomically."""
    json_files.write_atomic(path, render(title, sections, subtitle=subtitle))


def render(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """Returns the page; the same input gives the same bytes.

    All text is escaped. Figures are embedded, so that the page can be mailed.
    """
    body = "\n".join(_render_section(section) for section in sections)
    return string.Template(_PAGE).substitute(
        title=html.escape(title),
        subtitle=f'<p class="subtitle">{html.escape(subtitle)}</p>' if subtitle else "",
        style=_STYLE,
        body=body,
    )


def _render_section(section: Section) -> str:
    blocks = "\n".join(_render_block(block) for block in section.blocks)
    return f"<section>\n<h2>{html.escape(section.heading)}</h2>\n{blocks}\n</section>"


def _render_block(block: Block) -> str:
    match block:
        case str():
            return f"<p>{html.escape(block)}</p>"
        case Code():
            return f"<pre>{html.escape(block.text)}</pre>"
        case Table():
            return _render_table(block)
        case Figure():
            return _render_figure(block)
        case Row():
            figures = "\n".join(_render_figure(f) for f in block.figures)
            return f'<div class="row">\n{figures}\n</div>'
    raise TypeError(f"not a block of a report: {block!r}")


def _render_table(table: Table) -> str:
    def cells(tag: str, row: Sequence[Any]) -> str:
        return "".join(
            f'<{tag} class="number">{text}</{tag}>'
            if right
            else f"<{tag}>{text}</{tag}>"
            for text, right in zip(
                (html.escape(text_table.format_cell(cell)) for cell in row),
                numeric,
                strict=True,
            )
        )

    numeric = [
        any(text_table.is_number(row[i]) for row in table.rows)
        for i in range(len(table.header))
    ]
    caption = (
        f"<caption>{html.escape(table.caption)}</caption>" if table.caption else ""
    )
    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    return (
        f'<div class="scroll"><table>{caption}\n'
        f"<thead><tr>{cells('th', table.header)}</tr></thead>\n"
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _render_figure(figure: Figure) -> str:
    data = figure.image if isinstance(figure.image, bytes) else _to_svg(figure.image)
    kind = "png" if data.startswith(b"\x89PNG") else "svg+xml"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    alt = html.escape(figure.alt or figure.caption, quote=True)
    caption = (
        f"<figcaption>{html.escape(figure.caption)}</figcaption>"
        if figure.caption
        else ""
    )
    return f'<figure><img src="{source}" alt="{alt}">{caption}</figure>'


def _to_svg(figure: "matplotlib.figure.Figure") -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    # A fixed salt and no date: equal figures give equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None}
        )
    return buffer.getvalue()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
$subtitle
</header>
$body
</main>
</body>
</html>
"""

_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #f7f8fa; --card: #ffffff; --ink: #1d2530; --soft: #5b6675;
  --line: #e1e5eb; --accent: #2f5fb3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14181e; --card: #1d232b; --ink: #e4e8ee; --soft: #9aa5b3;
    --line: #323b47; --accent: #86aaf0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 0 0 .8rem; color: var(--accent); }
.subtitle { margin: 0 0 1.5rem; color: var(--soft); }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1.2rem 1.4rem; margin: 1rem 0;
}
p { margin: .5rem 0; max-width: 46rem; }
pre {
  overflow-x: auto; background: var(--ground); border-radius: .4rem;
  padding: .8rem 1rem; font-size: .85rem;
}
.scroll { overflow-x: auto; margin: .8rem 0; }
table {
  border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem;
}
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td {
  text-align: left; padding: .35rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap;
}
th { font-weight: 600; }
th:first-child, td:first-child { padding-left: 0; }
.number { text-align: right; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.row figure { flex: 1 1 18rem; }
figure { margin: 1rem 0; }
/* Figures are drawn for paper: they keep a white ground in the dark. */
figure img {
  max-width: 100%; height: auto; display: block;
  background: #fff; padding: .5rem; border-radius: .4rem;
}
figcaption {
  color: var(--soft); font-size: .92rem; margin-top: .3rem; max-width: 46rem;
}
"""
