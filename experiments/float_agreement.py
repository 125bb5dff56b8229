r"""How often published float networks and their integer forms decide alike.

    python -m experiments.float_agreement --data_dir=DIR --workdir=OUT

Compares every network on images in `DIR/s4nn` with its rounding to `--fractional_bits`
on the test split of its data set, in spike times of the published code. Writes
`agreement.json` and prints a table; networks that were compared already are not
compared again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import (
    data,
    float_replay,
    json_files,
    progress,
    published,
    run_state,
    text_table,
    train_job,
)
from jaxsnn import agreement
from jaxsnn.integer import S4NN_THRESHOLD

OUTPUT_FILE = "agreement.json"

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "networks", [], "Names of networks; all if left out.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "fractional_bits",
    4,
    "Binary digits kept.",
    lower_bound=0,
    upper_bound=16,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "limit", 10_000, "Images of each data set.", lower_bound=1, flag_values=FLAGS
)


def compare(
    entry: published.Network, dataset: data.Dataset, fractional_bits: int
) -> dict[str, Any]:
    """Returns one row about a network."""
    weights = float_replay.load_weights(entry.path)
    thresholds = [np.full(len(weight), S4NN_THRESHOLD) for weight in weights]
    found = agreement.measure(
        weights,
        thresholds,
        entry.num_steps,
        train_job.spike_steps(dataset, entry.num_steps),
        dataset.labels,
        fractional_bits,
    )
    count = found.num_examples
    return {
        "network": entry.name,
        "images": count,
        "same_prediction": found.predictions / count,
        "same_output_steps": found.output_steps / count,
        "float_accuracy": found.float_correct / count,
        "integer_accuracy": found.integer_correct / count,
    }


def main(argv: Sequence[str]) -> None:
    """Compares, writes and prints."""
    del argv
    if FLAGS.data_dir is None:
        raise run_state.usage_error(
            "data_dir", None, "is required: s4nn, mnist and fashion_mnist"
        )
    entries = published.select(FLAGS.data_dir, FLAGS.networks)
    for name in {entry.dataset for entry in entries}:
        data.check_dataset(name, FLAGS.data_dir, ["test"])
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=(OUTPUT_FILE,),
        overwrite=FLAGS.overwrite,
    )
    path = run.workdir / OUTPUT_FILE
    rows = json_files.read_json(path, missing={"rows": []})["rows"]
    done = {row["network"] for row in rows}
    for entry in progress.track(entries, "compare"):
        if entry.name not in done:
            dataset = data.load(entry.dataset, "test", FLAGS.data_dir, FLAGS.limit)
            rows.append(compare(entry, dataset, FLAGS.fractional_bits))
            json_files.write_json_atomic(path, {"rows": rows})
    columns = tuple(rows[0])
    print(text_table.render(columns, [[row[c] for c in columns] for row in rows]))


if __name__ == "__main__":
    run_state.run(main, FLAGS)
