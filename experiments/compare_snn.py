r"""Proves or refutes that two spiking networks decide alike, on every input of a ball.

    python -m experiments.compare_snn --network=A.npz --other=B.npz --num_steps=64 \
      --dataset=mnist --data_dir=DIR --samples=0:10 --norm=linf --radius=1 --workdir=OUT

For a pruned network and its original, a coarser rounding of the same weights
(`--other_fractional_bits`), or any two networks with the same inputs, steps and
classes. Verdicts are `equivalent`, `different` (with an input, replayed in both),
`unknown`, `timeout` and `error`. By default alike means the same class, the lowest
index of a tie; `--tie=adversarial` asks that the same classes are first, `--tie=s4nn`
that some class is first in both.
"""

import dataclasses
from collections.abc import Sequence

from absl import flags

from experiments import run_state, verify_flags, verify_query
from experiments.verify_job import Job
from jaxsnn.sat.requirement import Alike, Tie, check_comparable

FLAGS = run_state.new_flags()
verify_flags.define_flags(FLAGS)
verify_query.define_flags(FLAGS, Tie.ARGMIN)
flags.DEFINE_string(
    "other",
    None,
    "File of the network to compare with.",
    required=True,
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "other_fractional_bits",
    None,
    "Binary digits kept of its float weights; --fractional_bits by default.",
    lower_bound=0,
    flag_values=FLAGS,
)


def make_job() -> Job:
    """Checks every flag and returns what is to be done; nothing is written."""
    verify_flags.check(FLAGS)
    asked = verify_query.check(FLAGS)
    network = verify_flags.load_network(
        FLAGS.network, FLAGS.num_steps, FLAGS.fractional_bits
    )
    bits = FLAGS.other_fractional_bits
    other = verify_flags.load_network(
        FLAGS.other,
        FLAGS.num_steps,
        FLAGS.fractional_bits if bits is None else bits,
        flag="other",
    )
    try:
        check_comparable(network, other)
    except ValueError as error:
        raise run_state.usage_error("other", FLAGS.other, str(error)) from error
    asked = dataclasses.replace(asked, requires=Alike(other))
    return verify_flags.make_job(FLAGS, asked, network)


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then runs."""
    del argv
    verify_flags.run(FLAGS, make_job())


if __name__ == "__main__":
    run_state.run(main, FLAGS)
