"""Adds numbers, resumably: a binary as small as can be, for tests of its frame."""

from collections.abc import Sequence

from absl import flags

from experiments import json_files, run_state

FLAGS = run_state.new_flags()
flags.DEFINE_integer("upto", 3, "Last number.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_enum("order", "up", ["up", "down"], "Direction.", flag_values=FLAGS)
flags.DEFINE_integer("workers", 1, "Changes nothing.", flag_values=FLAGS)
flags.DEFINE_float("threshold", 0.5, "In (0, 1].", flag_values=FLAGS)
flags.DEFINE_string("fail", "", "crash | interrupt", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    del argv
    if not 0 < FLAGS.threshold <= 1:
        raise run_state.usage_error("threshold", FLAGS.threshold, "must be in (0, 1]")
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("numbers.jsonl",),
        volatile=("workers", "fail"),
        overwrite=FLAGS.overwrite,
    )
    path = run.workdir / "numbers.jsonl"
    done = len(json_files.read_jsonl(path))
    for number in range(done, FLAGS.upto):
        json_files.append_jsonl(path, {"number": number})
        if FLAGS.fail == "crash":
            raise RuntimeError("on purpose")
        if FLAGS.fail == "interrupt":
            raise KeyboardInterrupt
    print(f"resumed={run.resumed} done={done}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
