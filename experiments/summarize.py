"""Merges the results of verification runs, checks that none is missing, writes CSV.

    python -m experiments.summarize --workdir=OUT
    python -m experiments.summarize --workdir=ALL --inputs=OUT/shard0,OUT/shard1

writes `summary.csv` into the workdir, a row for each network, norm and radius, and
prints it. Exits 1 and names what is missing or contradictory, if anything is. --seed
and --data_dir are taken as by every binary and change nothing here; `summary.csv` is
always written anew.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from experiments import json_files, results, run_state, text_table

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "inputs",
    None,
    "Workdirs of verify_snn or compare_snn; the workdir itself by default.",
    flag_values=FLAGS,
)

SUMMARY_FILE = "summary.csv"


def main(argv: Sequence[str]) -> None:
    """Reads, checks, writes and prints."""
    del argv
    runs = [results.read_run(path) for path in FLAGS.inputs or [FLAGS.workdir]]
    if lines := results.problems(runs):
        print("\n".join(lines), file=sys.stderr)
        sys.exit(run_state.EXIT_ERROR)
    rows = results.summarize(runs)
    path = pathlib.Path(FLAGS.workdir) / SUMMARY_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        json_files.write_atomic(path, results.to_csv(rows))
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); name another directory"
        raise run_state.usage_error("workdir", FLAGS.workdir, reason) from error
    print(text_table.render(*results.table(rows)))
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
