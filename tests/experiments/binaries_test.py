"""What holds for every binary: help, shared flags, one line and exit 2 without jax."""

import importlib
import pathlib
import subprocess
import sys

import pytest

from experiments import run_state

DIRECTORY = pathlib.Path(run_state.__file__).parent
MAIN = '\nif __name__ == "__main__":\n'
BINARIES = sorted(
    path.stem
    for path in DIRECTORY.glob("*.py")
    if MAIN in path.read_text(encoding="utf-8")
)
# A checker has no run of its own to seed or to overwrite.
RUNNING = [name for name in BINARIES if name != "check_proofs"]


def call(name: str, *arguments: str) -> int:
    module = importlib.import_module(f"experiments.{name}")
    with pytest.raises(SystemExit) as exit_info:
        run_state.run(module.main, module.FLAGS, [name, *arguments])
    return exit_info.value.code or 0


def test_the_known_binaries_are_there():
    assert {"prune_model", "train_snn", "verify_snn", "summarize"} <= set(BINARIES)


@pytest.mark.parametrize("name", RUNNING)
def test_help_names_the_binary_and_the_shared_flags(name, capsys):
    assert call(name, "--helpfull") == 0
    shown = capsys.readouterr().out
    assert f"experiments.{name}" in shown
    for flag in ("--workdir", "--seed", "--data_dir", "overwrite"):
        assert flag in shown


@pytest.mark.parametrize("name", RUNNING)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--"),
        (["--workdir=w", "--no_such_flag=1"], "--no_such_flag"),
        (["--workdir=w", "--seed=x"], "--seed=x"),
    ],
)
def test_wrong_flag_is_one_line(name, arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(name, *arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"error: {named}")
    assert list(tmp_path.iterdir()) == []


def test_importing_a_binary_does_not_import_jax():
    """Wrong flags are told before the seconds that jax takes to load."""
    code = (
        "import importlib, sys\n"
        f"for name in {BINARIES}:\n"
        "    importlib.import_module(f'experiments.{name}')\n"
        "    assert not {'jax', 'flax', 'sklearn'} & set(sys.modules), name"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=DIRECTORY.parent)
