"""Exit codes, one-line errors, `run.json`, resuming and overwriting."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from absl import app

from experiments import json_files, run_state
from tests.experiments import toy_binary


def call(*arguments: str) -> int:
    """Runs the toy binary in this process and returns its exit code."""
    with pytest.raises(SystemExit) as exit_info:
        run_state.run(toy_binary.main, toy_binary.FLAGS, ["toy", *arguments])
    return exit_info.value.code or 0


def numbers(workdir: pathlib.Path) -> list[int]:
    return [r["number"] for r in json_files.read_jsonl(workdir / "numbers.jsonl")]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["--workdir", "required"]),
        (["--workdir"], ["--workdir", "no value"]),
        (["--workdir=@", "--threshold=1.5"], ["--threshold=1.5", "(0, 1]"]),
        (["--workdir=@", "--upto=x"], ["--upto=x", "a positive integer"]),
        (["--workdir=@", "--upto=0"], ["--upto=0", "a positive integer"]),
        (["--workdir=@", "--order=sideways"], ["--order=sideways", "<up|down>"]),
        (["--workdir=@", "--ordr=up"], ["--ordr", "did you mean --order?"]),
        (["--workdir=@", "--zzz"], ["--zzz", "unknown flag; --helpfull"]),
        (["--workdir=@", "--seed=-1"], ["--seed=-1", "non-negative"]),
        (["--workdir=@", "--overwrite=so"], ["--overwrite=so", "true or false"]),
        (["--workdir=@", "up"], ["up", "--NAME=VALUE"]),
        (["--workdir=/dev/null/x"], ["--workdir=/dev/null/x", "cannot be written"]),
    ],
)
def test_usage_error_is_one_line_and_exit_2(arguments, named, tmp_path, capsys):
    workdir = tmp_path / "new"
    assert call(*(a.replace("@", str(workdir)) for a in arguments)) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(part in message for part in named), message
    assert not workdir.exists()


def test_success_exits_0_and_records_the_run(tmp_path, capsys):
    assert call(f"--workdir={tmp_path / 'a' / 'b'}", "--seed=7") == 0
    facts = json.loads((tmp_path / "a" / "b" / "run.json").read_text())
    assert facts["flags"]["upto"] == 3
    assert facts["seed"] == 7
    assert "workdir" not in facts["flags"]
    assert facts["versions"]["jax"]
    assert set(facts) >= {"program", "command", "date", "git", "platform"}
    assert capsys.readouterr().out == "resumed=False done=0\n"


def test_crash_exits_1_with_a_traceback_and_the_same_flags_resume(tmp_path, capsys):
    assert call(f"--workdir={tmp_path}", "--fail=crash") == 1
    assert "RuntimeError: on purpose" in capsys.readouterr().err
    assert numbers(tmp_path) == [0]
    assert call(f"--workdir={tmp_path}") == 0
    assert capsys.readouterr().out == "resumed=True done=1\n"
    assert numbers(tmp_path) == [0, 1, 2]
    assert len(json.loads((tmp_path / "run.json").read_text())["resumed"]) == 1


def test_interrupt_exits_130_and_says_that_it_resumes(tmp_path, capsys):
    assert call(f"--workdir={tmp_path}", "--fail=interrupt") == 130
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "the same command resumes" in message


def test_interrupted_overwrite_is_resumed_without_it(tmp_path, capsys, monkeypatch):
    command = ["python", "-m", "toy", "--workdir=w", "--overwrite", "--upto=3"]
    monkeypatch.setattr(sys, "orig_argv", command)
    call(f"--workdir={tmp_path}", "--fail=interrupt")
    assert capsys.readouterr().err == (
        "interrupted; without --overwrite it resumes: "
        "python -m toy --workdir=w --upto=3\n"
    )


def test_other_flags_are_refused_and_named(tmp_path, capsys):
    assert call(f"--workdir={tmp_path}") == 0
    before = (tmp_path / "run.json").read_bytes()
    assert call(f"--workdir={tmp_path}", "--upto=4", "--workers=2") == 2
    message = capsys.readouterr().err
    assert "--upto=4 (there 3)" in message
    assert "--overwrite" in message
    assert "--workers" not in message
    assert (tmp_path / "run.json").read_bytes() == before


def test_volatile_flags_may_change(tmp_path):
    assert call(f"--workdir={tmp_path}", "--workers=1") == 0
    assert call(f"--workdir={tmp_path}", "--workers=2") == 0
    assert json.loads((tmp_path / "run.json").read_text())["flags"]["workers"] == 2


def test_overwrite_clears_outputs_and_nothing_else(tmp_path):
    assert call(f"--workdir={tmp_path}", "--upto=2") == 0
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".numbers.jsonl.123.tmp").write_text("left by a killed run")
    assert call(f"--workdir={tmp_path}", "--upto=4", "--overwrite") == 0
    assert numbers(tmp_path) == [0, 1, 2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "notes.txt",
        "numbers.jsonl",
        "run.json",
    ]


def test_overwrite_of_a_new_directory_is_no_error(tmp_path):
    assert call(f"--workdir={tmp_path / 'new'}", "--overwrite") == 0


@pytest.mark.parametrize("overwrite", ["--overwrite", "--nooverwrite"])
def test_foreign_directory_is_refused_and_left_alone(overwrite, tmp_path, capsys):
    (tmp_path / "numbers.jsonl").write_text("mine")
    assert call(f"--workdir={tmp_path}", overwrite) == 2
    assert "run.json" in capsys.readouterr().err
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


def test_a_log_beside_the_outputs_is_left_alone(tmp_path):
    (tmp_path / "log.txt").write_text("mine")
    assert call(f"--workdir={tmp_path}") == 0
    assert call(f"--workdir={tmp_path}", "--overwrite") == 0
    assert (tmp_path / "log.txt").read_text() == "mine"


def test_run_of_another_binary_is_refused(tmp_path, capsys):
    assert call(f"--workdir={tmp_path}") == 0
    facts = json.loads((tmp_path / "run.json").read_text())
    json_files.write_json_atomic(
        tmp_path / "run.json", {**facts, "program": "experiments.other"}
    )
    assert call(f"--workdir={tmp_path}") == 2
    assert "holds a run of experiments.other" in capsys.readouterr().err


def test_damaged_run_file_is_a_usage_error(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"program": ')
    assert call(f"--workdir={tmp_path}") == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "run.json" in message


def test_record_adds_facts(tmp_path):
    assert call(f"--workdir={tmp_path}") == 0
    run_state.record(tmp_path, device={"platform": "cpu"})
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["device"] == {"platform": "cpu"}
    assert facts["flags"]["upto"] == 3


def test_help_exits_0_and_lists_flags(capsys):
    assert call("--helpfull") == 0
    shown = capsys.readouterr().out
    assert "a binary as small as can be" in shown
    for name in ("--workdir", "overwrite", "--order", "--verbosity"):
        assert name in shown


def test_usage_error_serves_absl_and_library_callers():
    error = run_state.usage_error("radius", [1, -2], "must be\nnon-negative")
    assert str(error) == "--radius=1,-2: must be non-negative"
    assert isinstance(error, app.UsageError)
    assert isinstance(error, ValueError)


def test_process_says_no_within_two_seconds_without_jax(tmp_path):
    """The real process: exit code, one line, and jax never imported."""
    command = [sys.executable, "-X", "importtime", "-m", "tests.experiments.toy_binary"]
    started = time.monotonic()
    result = subprocess.run(
        [*command, f"--workdir={tmp_path}", "--threshold=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - started < 2
    assert result.returncode == 2
    lines = [x for x in result.stderr.splitlines() if not x.startswith("import time:")]
    assert lines == ["error: --threshold=0.0: must be in (0, 1]"]
    assert not any(
        x.split("|")[-1].strip() == "jax" for x in result.stderr.splitlines()
    )


def test_processes_with_one_workdir_do_not_lose_facts(tmp_path):
    """Shards start at the same time and each records what it found."""
    assert call(f"--workdir={tmp_path}") == 0
    script = (
        "import sys; from experiments import run_state\n"
        "for i in range(20): run_state.record("
        f"{str(tmp_path)!r}, **{{f'{{sys.argv[1]}}_{{i}}': i}})"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, name]) for name in ("a", "b")
    ]
    assert [p.wait() for p in processes] == [0, 0]
    facts = json.loads((tmp_path / "run.json").read_text())
    assert all(facts[f"{n}_{i}"] == i for n in ("a", "b") for i in range(20))


def test_killed_process_leaves_whole_lines(tmp_path):
    """SIGKILL in the midst of appending; the next run goes on where it stopped."""
    path = tmp_path / "numbers.jsonl"
    script = (
        "import itertools; from experiments import json_files\n"
        f"for i in itertools.count(): json_files.append_jsonl({str(path)!r}, "
        "{'number': i, 'filler': 'x' * 10_000})"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    while not path.exists() or path.stat().st_size < 100_000:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    known = numbers(tmp_path)
    assert known == list(range(len(known)))
    json_files.append_jsonl(path, {"number": len(known)})
    assert numbers(tmp_path) == list(range(len(known) + 1))
