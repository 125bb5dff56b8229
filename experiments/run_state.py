"""What every binary shares: flags, exit codes, `run.json` and resuming.

A binary keeps its flags in a `FlagValues` of its own, so that several binaries can be
imported into one process although their flags bear the same names:

    FLAGS = run_state.new_flags()
    flags.DEFINE_float("threshold", 0.98, "CKA above ...", flag_values=FLAGS)

    def main(argv: Sequence[str]) -> None:
        if not 0 < FLAGS.threshold <= 1:
            raise run_state.usage_error("threshold", FLAGS.threshold, "in (0, 1]")
        run = run_state.start_run(
            FLAGS.workdir,
            run_state.settings(FLAGS),
            outputs=("report.json", "checkpoint"),
            volatile=("workers",),
            overwrite=FLAGS.overwrite,
        )
        ...  # only now import jax

    if __name__ == "__main__":
        run_state.run(main, FLAGS)

Nothing here imports jax, so that a wrong flag is told at once.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import platform
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from experiments import flag_errors, json_files, provenance
from experiments.flag_errors import EXIT_USAGE as EXIT_USAGE
from experiments.flag_errors import UsageError as UsageError
from experiments.flag_errors import usage_error as usage_error
from experiments.provenance import describe_device as describe_device

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

RUN_FILE = "run.json"

# Flags that say where a run lives rather than what it computes.
_NOT_SETTINGS = frozenset({"workdir", "overwrite"})
_HELP_FLAGS = frozenset({"help", "helpshort", "helpfull", "?"})


# Flags and exit codes.


def new_flags() -> flags.FlagValues:
    """Returns flags of one binary, the shared ones already among them."""
    flag_values = flags.FlagValues()
    define_shared_flags(flag_values)
    return flag_values


def define_shared_flags(flag_values: flags.FlagValues) -> None:
    """Adds --workdir, --seed, --data_dir and --overwrite."""
    flags.DEFINE_string(
        "workdir",
        None,
        "Directory for all outputs and state; created when it does not exist.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "seed",
        0,
        "Seed of every random choice of the run.",
        lower_bound=0,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Directory of the data set; not needed for digits and iris.",
        flag_values=flag_values,
    )
    flags.DEFINE_boolean(
        "overwrite",
        False,
        "Start anew in a workdir that already holds a run.",
        flag_values=flag_values,
    )


def settings(flag_values: flags.FlagValues) -> dict[str, Any]:
    """Returns what a run computes: all flags but --workdir and --overwrite."""
    values: dict[str, Any] = flag_values.flag_values_dict()
    return {k: v for k, v in sorted(values.items()) if k not in _NOT_SETTINGS}


def run(
    main: Callable[[Sequence[str]], None],
    flag_values: flags.FlagValues,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Parses the flags, calls `main` and leaves the process.

    Exits 0 on success, 2 after one line on stderr for a usage error, 130 after one line
    for Ctrl-C, and 1 with a traceback for anything else.

    Args:
        main: called with the program's name alone; further arguments are refused.
        flag_values: flags of this binary, from `new_flags`.
        argv: command line, that of the process by default.
    """

    def parse(arguments: Sequence[str]) -> list[str]:
        asked = {a.lstrip("-") for a in arguments[1:] if a.startswith("-")}
        if asked & _HELP_FLAGS:
            _print_help(main, flag_values, full="helpfull" in asked)
            sys.exit(0)
        try:
            rest = flags.FLAGS(arguments)
        except flags.Error as error:
            _exit_usage(flag_errors.line(error, flag_values))
        flag_values.mark_as_parsed()
        if flags.FLAGS["verbosity"].using_default_value:
            # absl would show what other packages find worth a note.
            logging.set_verbosity(logging.WARNING)
        if len(rest) > 1:
            _exit_usage(f"{rest[1]}: not a flag; write --NAME=VALUE (see --helpfull)")
        return rest

    def guarded(arguments: Sequence[str]) -> None:
        try:
            flag_errors.check_numbers(flag_values)
            main(arguments)
        except app.UsageError as error:
            _exit_usage(str(error))
        except KeyboardInterrupt:
            print("interrupted; " + _how_to_resume(), file=sys.stderr, flush=True)
            sys.exit(EXIT_INTERRUPTED)
        except Exception:
            traceback.print_exc()
            sys.exit(EXIT_ERROR)

    flag_values.unparse_flags()
    flags.FLAGS.append_flag_values(flag_values)
    try:
        app.run(guarded, argv=list(argv) if argv else None, flags_parser=parse)
    finally:
        flags.FLAGS.remove_flag_values(list(flag_values))
    sys.exit(0)


def _exit_usage(message: str) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(EXIT_USAGE)


def _how_to_resume() -> str:
    """Returns the command to repeat, which must not say --overwrite."""
    kept = [a for a in sys.orig_argv if a.lstrip("-").split("=")[0] != "overwrite"]
    same = "the same command" if kept == sys.orig_argv else "without --overwrite it"
    return f"{same} resumes: {shlex.join(kept)}"


def _print_help(
    main: Callable[..., None], flag_values: flags.FlagValues, *, full: bool
) -> None:
    print((sys.modules[main.__module__].__doc__ or "").strip(), end="\n\n")
    print(flag_values.get_help())
    if full:
        app.define_help_flags()
        print(flags.FLAGS.get_help())


# The workdir.


@dataclasses.dataclass(frozen=True)
class RunState:
    """Where a run lives.

    Attributes:
        workdir: the directory, which exists.
        resumed: whether a run with the same flags was begun there before.
    """

    workdir: pathlib.Path
    resumed: bool


def start_run(
    workdir: str | os.PathLike[str],
    flag_settings: Mapping[str, Any],
    *,
    outputs: Collection[str],
    volatile: Collection[str] = (),
    overwrite: bool = False,
) -> RunState:
    """Begins or resumes a run and writes `run.json`.

    Call it after all arguments are validated: it is the first thing that writes.

    Args:
        workdir: created when it does not exist.
        flag_settings: what the run computes, from `settings`; values go into JSON.
        outputs: names or glob patterns, relative to `workdir`, of all that the binary
            writes there (directories included). `overwrite` deletes these and nothing
            else.
        volatile: names in `flag_settings` that do not change results, such as the
            number of workers; they may differ on resuming.
        overwrite: forget what a previous run left.

    Returns:
        The run; `resumed` tells whether to look for earlier state.

    Raises:
        UsageError: the directory cannot be written, holds other things than a run of
            this project, or holds a run with other flags.
    """
    path = pathlib.Path(workdir)
    program = provenance.program_name()
    now = json_files.as_plain(dict(flag_settings))
    try:
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            known = _read_run_file(path)
            if known is None and (foreign := _matches(path, outputs)):
                # A log beside the outputs is welcome; files of others are not ours.
                raise usage_error(
                    "workdir",
                    workdir,
                    f"holds {foreign[0].name} but no {RUN_FILE}; name a new or empty "
                    "directory",
                )
            if known is not None and overwrite:
                _clear(path, {*known.get("outputs", ()), *outputs})
                known = None
            if known is not None:
                _refuse_other_run(path, known, program, now, volatile)
            facts = _run_facts(program, now, outputs, volatile)
            if known is not None:
                session = {k: facts[k] for k in ("date", "command", "git", "versions")}
                facts = {**known, "flags": now}
                facts["resumed"] = [*known.get("resumed", ()), session]
            json_files.write_json_atomic(path / RUN_FILE, facts)
    except OSError as error:
        reason = error.strerror or str(error)
        raise usage_error(
            "workdir", workdir, f"cannot be written ({reason}); name another directory"
        ) from error
    return RunState(workdir=path, resumed=known is not None)


def record(workdir: str | os.PathLike[str], **facts: Any) -> None:
    """Adds facts to `run.json`, such as `device=describe_device()`.

    Processes that share a workdir may call it at the same time.
    """
    path = pathlib.Path(workdir)
    with _locked(path):
        known = json_files.read_json(path / RUN_FILE)
        json_files.write_json_atomic(path / RUN_FILE, {**known, **facts})


def _run_facts(
    program: str,
    flag_settings: Mapping[str, Any],
    outputs: Collection[str],
    volatile: Collection[str],
) -> dict[str, Any]:
    return {
        "program": program,
        "command": shlex.join(sys.orig_argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "flags": dict(flag_settings),
        "volatile": sorted(volatile),
        "seed": flag_settings.get("seed"),
        "outputs": sorted(outputs),
        "git": provenance.git_state(),
        "versions": provenance.versions(),
        "platform": platform.platform(),
    }


def _read_run_file(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        known = json_files.read_json(path / RUN_FILE, missing=None)
    except ValueError as error:
        raise usage_error(
            "workdir", path, f"{error}; name another directory or delete that file"
        ) from error
    return known


def _refuse_other_run(
    path: pathlib.Path,
    known: Mapping[str, Any],
    program: str,
    now: Mapping[str, Any],
    volatile: Collection[str],
) -> None:
    remedy = "name another --workdir, or start anew with --overwrite"
    if known.get("program") != program:
        raise usage_error(
            "workdir", path, f"holds a run of {known.get('program')}; {remedy}"
        )
    before = known.get("flags", {})
    typed = flag_errors.as_typed
    differing = [
        f"--{name}={typed(now.get(name))} (there {typed(before.get(name))})"
        for name in sorted({*before, *now} - {*volatile})
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise usage_error(
            "workdir",
            path,
            f"holds a run with other flags: {', '.join(differing)}; {remedy}",
        )


def _matches(path: pathlib.Path, patterns: Collection[str]) -> list[pathlib.Path]:
    """Returns what a run with these outputs would write over."""
    return sorted({match for pattern in patterns for match in path.glob(pattern)})


def _clear(path: pathlib.Path, patterns: Collection[str]) -> None:
    """Deletes what matches, and leftovers of interrupted writes; run.json last."""
    leftovers = [p for p in path.iterdir() if _is_temporary(p)]
    for match in sorted({*_matches(path, patterns), *leftovers}):
        if match.is_dir() and not match.is_symlink():
            shutil.rmtree(match)
        else:
            match.unlink(missing_ok=True)
    (path / RUN_FILE).unlink(missing_ok=True)


def _is_temporary(path: pathlib.Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Holds an advisory lock on a directory, where the system has such a thing."""
    try:
        import fcntl
    except ImportError:  # Windows; single processes need no lock.
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems have no locks; renaming stays atomic there.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
