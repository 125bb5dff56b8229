r"""Verifies a spiking network: one JSON line a query, each a proof or a counterexample.

    python -m experiments.verify_snn --network=FILE.npz --num_steps=64 \
      --dataset=mnist --data_dir=DIR --split=train --samples=14628,48598 \
      --norm=linf --radius=1,2 --timeout_s=60 --workers=2 --workdir=OUT

Robustness is that of the prediction. `results.jsonl` grows as queries are decided and
`report.html` ends the run; the same command resumes where it was interrupted.
"""

from collections.abc import Sequence

from experiments import run_state, verify_flags, verify_query
from experiments.verify_job import Job
from jaxsnn.sat.requirement import Tie

FLAGS = run_state.new_flags()
verify_flags.define_flags(FLAGS)
verify_query.define_flags(FLAGS, Tie.ADVERSARIAL)
verify_query.define_property_flags(FLAGS)


def make_job() -> Job:
    """Checks every flag and returns what is to be done; nothing is written."""
    verify_flags.check(FLAGS)
    asked = verify_query.check(FLAGS)
    network = verify_flags.load_network(
        FLAGS.network, FLAGS.num_steps, FLAGS.fractional_bits
    )
    asked = verify_query.with_property(asked, FLAGS, network)
    return verify_flags.make_job(FLAGS, asked, network)


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then runs."""
    del argv
    verify_flags.run(FLAGS, make_job())


if __name__ == "__main__":
    run_state.run(main, FLAGS)
