r"""Confirms proofs of robustness, without jax and without a solver.

    python -m experiments.check_proofs DIR
    python -m experiments.check_proofs --proof_dir=DIR --results=WORKDIR

Checks every proof that `verify_snn --proof_dir=DIR` wrote, from the hashes of network,
input and query to the last lemma. With `--results` it also holds the proofs against
the lines of that run: each robust line needs a proof about this very network, sample
and radius, and each counterexample is replayed. Exits 0 if all is confirmed, 1 if not,
naming what failed.
"""

import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import check_results, json_files, progress, run_state, text_table
from jaxsnn import integer
from jaxsnn.sat.check.errors import ProofError
from jaxsnn.sat.check.folder import Confirmed, confirm

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
    "Directory for check.json; without it nothing is written.",
    flag_values=FLAGS,
)

# None of these may have had a say.
_UNWANTED = ("jax", "pysat.solvers", "clingo", "exact", "ortools")


def check_folders(
    proof_dir: pathlib.Path,
) -> tuple[dict[str, Confirmed], dict[str, str]]:
    """Checks every proof of a directory.

    Returns:
        The proofs that hold, and why the others do not, by name of the folder.
    """
    folders = sorted(
        path
        for path in proof_dir.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    )
    load = functools.cache(integer.load)
    confirmed: dict[str, Confirmed] = {}
    refused: dict[str, str] = {}
    with progress.Progress("check", len(folders)) as bar:
        for folder in folders:
            try:
                confirmed[folder.name] = confirm(folder, load)
            except ProofError as error:
                refused[folder.name] = str(error)
            bar.advance(confirmed=len(confirmed), refused=len(refused))
    return confirmed, refused


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
    confirmed, refused = check_folders(proof_dir)
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
