"""Progress on the terminal: a bar for people, plain lines for logs.

with progress.Progress("verify", total=100) as bar:
    for query in queries:
        ...
        bar.advance(decided=decided)
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Self, TextIO, TypeVar

_T = TypeVar("_T")
_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows how far a loop is.

    On a terminal it is a bar. Elsewhere it writes a line at the beginning and the end,
    and every five seconds at most in between. All goes to stderr, so that the summary
    on stdout can be piped.
    """

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        done: int = 0,
        stream: TextIO | None = None,
    ):
        """Begins to show progress.

        Args:
            description: what the loop does, in a few words.
            total: number of steps, None when unknown.
            done: steps that an earlier run has taken already.
            stream: where to write, stderr by default.
        """
        self._description = description
        self._total = total
        self._done = self._done_at_start = self._done_at_last_line = done
        self._facts = ""
        self._stream = stream if stream is not None else sys.stderr
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._stream.isatty():
            self._bar, self._task = self._make_bar()
            self._bar.start()
        else:
            self._write_line("begins")
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._write_line("done" if error_type is None else "stopped")

    def advance(self, steps: int = 1, **facts: Any) -> None:
        """Counts steps; `facts`, such as a loss, are shown beside the count."""
        self._done += steps
        if facts:
            self._facts = "  ".join(f"{k} {_short(v)}" for k, v in facts.items())
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, facts=self._facts)
        elif self._done != self._total and self._line_is_due():
            self._write_line(self._remaining())

    def _make_bar(self) -> tuple[Any, Any]:
        import rich.console
        import rich.progress as rich_progress

        bar = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[facts]}", markup=False),
            console=rich.console.Console(file=self._stream),
        )
        task = bar.add_task(
            self._description, total=self._total, completed=self._done, facts=""
        )
        return bar, task

    def _line_is_due(self) -> bool:
        return time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES

    def _remaining(self) -> str:
        """Estimates from the steps since the last line: the first ones compile."""
        taken = self._done - self._done_at_last_line
        compiled = self._done_at_last_line > self._done_at_start
        if self._total is None or not compiled or taken <= 0:
            return ""
        pace = (time.monotonic() - self._last_line) / taken
        return f"about {pace * (self._total - self._done):.0f} s left"

    def _write_line(self, note: str) -> None:
        self._last_line = time.monotonic()
        self._done_at_last_line = self._done
        count = (
            f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        )
        seconds = f"{self._last_line - self._started:.1f} s"
        parts = (f"{self._description}: {count}", seconds, self._facts, note)
        print("  ".join(filter(None, parts)), file=self._stream, flush=True)


def track(
    items: Iterable[_T], description: str, total: int | None = None
) -> Iterator[_T]:
    """Yields the items and shows how many were yielded."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(description, total) as bar:
        for item in items:
            yield item
            bar.advance()


def note(message: str, stream: TextIO | None = None) -> None:
    """Writes one line about what happens now."""
    print(message, file=stream if stream is not None else sys.stderr, flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
