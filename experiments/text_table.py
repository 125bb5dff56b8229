"""Tables for a terminal."""

from collections.abc import Sequence
from typing import Any


def render(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Returns aligned columns, numbers to the right; None is shown as `-`.

    >>> print(render(["stage", "seconds"], [["attack", 0.25], ["solve", None]]))
    stage   seconds
    ------  -------
    attack     0.25
    solve         -
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"{row=} has {len(row)} cells, expected {len(header)}")
    cells = [[format_cell(cell) for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in header]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [any(is_number(cell) for cell in column) for column in columns]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = ["-" * width for width in widths]
    return "\n".join(line(row) for row in [list(header), rule, *cells])


def format_cell(cell: Any) -> str:
    """Returns a cell as text; floats with four significant digits, or as integers."""
    if cell is None:
        return "-"
    if is_number(cell) and abs(cell) >= 10_000:
        return f"{cell:,.0f}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def is_number(cell: Any) -> bool:
    """Returns whether a cell is set to the right."""
    return isinstance(cell, (int, float)) and not isinstance(cell, bool)
