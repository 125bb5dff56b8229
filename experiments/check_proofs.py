r"""Confirms proofs of robustness, without jax and without a solver.

    python -m experiments.check_proofs DIR
    python -m experiments.check_proofs --proof_dir=DIR --results=WORKDIR

Checks every proof that `verify_snn --proof_dir=DIR` wrote, from the hashes of network,
input and query to the last lemma that the contradiction rests on. With `--workdir` it
resumes: a proof that the same code confirmed before is not followed again as long as
all its bytes are what they were. With `--results` it also holds the proofs against
the lines of that run: each robust line needs a proof about this very network, sample
and radius, and each counterexample is replayed. Exits 0 if all is confirmed, 1 if not,
naming what failed.
"""

import contextlib
import functools
import multiprocessing
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures import process
from typing import Any

from absl import flags

from experiments import check_results, json_files, progress, run_state, text_table
from jaxsnn import integer
from jaxsnn.sat.check import manifest
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.folder import Confirmed, confirm, open_folder

FLAGS = flags.FlagValues()
flags.DEFINE_string(
    "proof_dir",
    None,
    "Directory of the proofs; may be given without the flag's name.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "results",
    None,
    "Workdir of the run of verify_snn whose verdicts are to be confirmed.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "data_dir",
    None,
    "Directory of the data set of that run, when it has moved.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "workdir",
    None,
    "Directory for check.json and what a later call resumes from; without it nothing "
    "is written.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "workers", 2, "Processes that check.", lower_bound=1, flag_values=FLAGS
)

# None of these may have had a say.
_UNWANTED = ("jax", "pysat.solvers", "clingo", "exact", "ortools")


# What these directories say decides whether a proof holds.
_CHECKER = ("sat/**/*.py", "integer.py")

_load = functools.cache(integer.load)


class Memory:
    """Proofs that were confirmed before, for a later call to go on from."""

    FILE = "checked.jsonl"

    def __init__(self, workdir: pathlib.Path) -> None:
        """Reads what there is.

        Raises:
            UsageError: the directory cannot be read or written.
        """
        self._file = workdir / self.FILE
        self._code = _digest_of_the_code()
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            lines = json_files.read_jsonl(self._file)
        except (OSError, ValueError) as error:
            reason = f"cannot be used ({error}); name another directory"
            raise run_state.usage_error("workdir", workdir, reason) from error
        self._known = {
            (line["manifest"], line["proof"]): line
            for line in lines
            if line["code"] == self._code
        }

    def recall(self, folder: pathlib.Path) -> Confirmed | None:
        """Returns what was confirmed of the folder as it is now, if anything was.

        Raises:
            ProofError: a byte of it has changed since.
        """
        line = self._known.get((_manifest_digest(folder), folder.name))
        if line is None:
            return None
        opened = open_folder(folder, _load)
        return Confirmed(opened.manifest, opened.query, line["lemmas"], line["seconds"])

    def remember(self, folder: pathlib.Path, found: Confirmed) -> None:
        """Writes down that a folder holds."""
        line = {
            "proof": folder.name,
            "manifest": _manifest_digest(folder),
            "code": self._code,
            "lemmas": found.num_steps,
            "seconds": round(found.seconds, 3),
        }
        json_files.append_jsonl(self._file, line)


def _digest_of_the_code() -> str:
    package = pathlib.Path(integer.__file__).parent
    files = sorted(file for pattern in _CHECKER for file in package.glob(pattern))
    return manifest.sha256(b"".join(file.read_bytes() for file in files))


def _manifest_digest(folder: pathlib.Path) -> str:
    try:
        return manifest.sha256((folder / manifest.MANIFEST_FILE).read_bytes())
    except OSError:
        return ""


def check_folder(folder: pathlib.Path) -> Confirmed | ProofError:
    """Checks one proof."""
    try:
        return confirm(folder, _load)
    except ProofError as error:
        return error


def check_folders(
    proof_dir: pathlib.Path, workers: int = 1, memory: Memory | None = None
) -> tuple[dict[str, Confirmed], dict[str, str]]:
    """Checks every proof of a directory.

    Args:
        proof_dir: the directory.
        workers: processes; one means this one.
        memory: of earlier calls; it receives what is confirmed here.

    Returns:
        The proofs that hold, and why the others do not, by name of the folder.
    """
    folders = sorted(
        path
        for path in proof_dir.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    outcomes: dict[pathlib.Path, Confirmed | ProofError] = {}
    for folder in folders:
        try:
            if memory and (recalled := memory.recall(folder)) is not None:
                outcomes[folder] = recalled
        except ProofError as error:
            outcomes[folder] = error
    # The largest first: the others fill the time until they are through.
    left = sorted((f for f in folders if f not in outcomes), key=_size, reverse=True)
    workers = min(workers, len(left))
    with (
        progress.Progress("check", len(folders), done=len(outcomes)) as bar,
        contextlib.ExitStack() as stack,
    ):
        if workers > 1:
            spawn = multiprocessing.get_context("spawn")
            pool = futures.ProcessPoolExecutor(workers, mp_context=spawn)
            pending = _in_any_order(stack.enter_context(pool), left)
        else:
            pending = ((folder, check_folder(folder)) for folder in left)
        for folder, outcome in pending:
            outcomes[folder] = outcome
            if memory and isinstance(outcome, Confirmed):
                memory.remember(folder, outcome)
            refused = sum(isinstance(each, ProofError) for each in outcomes.values())
            bar.advance(confirmed=len(outcomes) - refused, refused=refused)
    ordered = {folder.name: outcomes[folder] for folder in folders}
    return (
        {name: each for name, each in ordered.items() if isinstance(each, Confirmed)},
        {
            name: str(each)
            for name, each in ordered.items()
            if isinstance(each, ProofError)
        },
    )


def _in_any_order(
    pool: futures.Executor, folders: Sequence[pathlib.Path]
) -> Iterator[tuple[pathlib.Path, Confirmed | ProofError]]:
    asked = {pool.submit(check_folder, folder): folder for folder in folders}
    for future in futures.as_completed(asked):
        try:
            yield asked[future], future.result()
        except process.BrokenProcessPool:
            reason = "was not checked: a process died; fewer --workers need less memory"
            yield asked[future], ProofError(reason)


def _size(folder: pathlib.Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def table(
    confirmed: Mapping[str, Confirmed],
) -> tuple[list[str], list[list[Any]]]:
    """Returns header and rows: the proofs that hold, by method."""
    groups: dict[str, list[Confirmed]] = {}
    for found in confirmed.values():
        groups.setdefault(found.manifest.method.value, []).append(found)
    header = ["method", "proofs", "lemmas", "seconds", "slowest"]
    return header, [
        [
            method,
            len(group),
            sum(found.num_steps for found in group),
            sum(found.seconds for found in group),
            max(found.seconds for found in group),
        ]
        for method, group in sorted(groups.items())
    ]


def main(argv: Sequence[str]) -> None:
    """Checks the folders, then the results; prints; leaves with 1 if anything fails."""
    del argv
    proof_dir = pathlib.Path(FLAGS.proof_dir)
    if not proof_dir.is_dir():
        raise run_state.usage_error("proof_dir", proof_dir, "is not a directory")
    run = None
    if FLAGS.results is not None:
        run = check_results.open_run(FLAGS.results, FLAGS.data_dir)
    memory = None if FLAGS.workdir is None else Memory(pathlib.Path(FLAGS.workdir))
    confirmed, refused = check_folders(proof_dir, FLAGS.workers, memory)
    failures = [f"{name}: {reason}" for name, reason in refused.items()]
    print(text_table.render(*table(confirmed)))
    counts = {"proofs": len(confirmed)}
    if run is not None:
        counts, unconfirmed = check_results.check(run, confirmed)
        failures += unconfirmed
    elif not (confirmed or refused):
        failures.append("there are no proofs")
    print("\nconfirmed: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    if FLAGS.workdir is not None:
        _write(pathlib.Path(FLAGS.workdir), confirmed, counts, failures)
    loaded = [name for name in _UNWANTED if name in sys.modules]
    if loaded:
        raise RuntimeError(f"the check is not independent: {loaded} were imported")
    if failures:
        print("\n".join(f"failed: {line}" for line in failures), file=sys.stderr)
        sys.exit(run_state.EXIT_ERROR)


def _write(
    workdir: pathlib.Path,
    confirmed: Mapping[str, Confirmed],
    counts: Mapping[str, int],
    failures: Sequence[str],
) -> None:
    proofs = {
        name: {
            "method": found.manifest.method.value,
            "lemmas": found.num_steps,
            "seconds": round(found.seconds, 3),
        }
        for name, found in confirmed.items()
    }
    content = {"confirmed": counts, "failures": list(failures), "proofs": proofs}
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        json_files.write_json_atomic(workdir / "check.json", content)
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); name another directory"
        raise run_state.usage_error("workdir", workdir, reason) from error


def with_flag(argv: Sequence[str]) -> list[str]:
    """Returns a command line in which a leading directory is `--proof_dir`.

    >>> with_flag(["check_proofs", "DIR", "--results=OUT"])
    ['check_proofs', '--proof_dir=DIR', '--results=OUT']
    """
    program, *rest = argv
    if rest and not rest[0].startswith("-"):
        rest[0] = f"--proof_dir={rest[0]}"
    return [program, *rest]


if __name__ == "__main__":
    run_state.run(main, FLAGS, with_flag(sys.argv))
