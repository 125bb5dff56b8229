"""Bars on a terminal, few lines elsewhere."""

import io

import pytest

from experiments import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test advances."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_log_gets_lines_at_both_ends_and_every_five_seconds(clock):
    stream = io.StringIO()
    with progress.Progress("train", total=80, stream=stream) as bar:
        for step in range(80):
            clock[0] += 0.125
            bar.advance(loss=1.0 / (step + 1))
    assert stream.getvalue().splitlines() == [
        "train: 0/80  0.0 s  begins",
        "train: 40/80  5.0 s  loss 0.025",
        "train: 80/80  10.0 s  loss 0.0125  done",
    ]


def test_remaining_time_leaves_out_compilation_and_earlier_runs(clock):
    stream = io.StringIO()
    with progress.Progress("solve", total=20, done=10, stream=stream) as bar:
        clock[0] += 60
        bar.advance(1)
        clock[0] += 6
        bar.advance(3)
    assert stream.getvalue().splitlines()[:3] == [
        "solve: 10/20  0.0 s  begins",
        "solve: 11/20  60.0 s",
        "solve: 14/20  66.0 s  about 12 s left",
    ]


def test_failure_is_not_called_done(clock):
    stream = io.StringIO()

    def fail():
        with progress.Progress("train", stream=stream) as bar:
            bar.advance()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert stream.getvalue().splitlines()[1:] == ["train: 1  0.0 s  stopped"]


def test_terminal_gets_a_bar():
    stream = Terminal()
    with progress.Progress("verify", total=3, stream=stream) as bar:
        bar.advance(3, left=0)
    assert "verify" in stream.getvalue()
    assert "3/3" in stream.getvalue()
    assert "left 0" in stream.getvalue()


def test_facts_are_not_markup():
    stream = Terminal()
    with progress.Progress("verify", total=1, stream=stream) as bar:
        bar.advance(state="[red]")
    assert "[red]" in stream.getvalue()


def test_track_yields_everything_and_counts_it(capsys):
    assert list(progress.track([3, 1, 2], "sum")) == [3, 1, 2]
    assert "sum: 3/3" in capsys.readouterr().err
    assert list(progress.track(iter("ab"), "read")) == ["a", "b"]
    assert "read: 2 " in capsys.readouterr().err


def test_note_is_one_line_on_stderr(capsys):
    progress.note("loading digits")
    assert capsys.readouterr() == ("", "loading digits\n")
