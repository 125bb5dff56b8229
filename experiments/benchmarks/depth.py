r"""Whether latency falls as floating-point operations do when blocks are removed.

    python -m experiments.benchmarks.depth --models=MiniLM-L6,ResNet-56 --workdir=OUT

Each structure of the paper, and some of the smaller networks that are pruned here, is
built at its true size with random weights, which do not change what a network costs,
and timed in turns with its unpruned model. `depth.json` holds a row for each; a row is
kept when it is measured, and the same command resumes. `ratio` is the latency that is
left, `flops_ratio` the operations that are left, of the programs as XLA compiled them.
"""

import gc
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from experiments import json_files, progress, run_state, text_table


class Case(NamedTuple):
    """A model and the blocks that its stages or stacks lose.

    Attributes:
        model: its name.
        removed: blocks of each stage or stack, the last ones.
        setting: where the structure is from.
    """

    model: str
    removed: tuple[int, ...]
    setting: str = ""

    @property
    def name(self) -> str:
        """Of the row."""
        return f"{self.model} without {'/'.join(map(str, self.removed))}"


CASES = (
    Case("MiniLM-L6", (2,)),
    Case("MiniLM-L6", (3,)),
    Case("MiniLM-L6", (4,)),
    *(
        Case(name, (removed,) * 3)
        for name, blocks in (("ResNet-56", 9), ("ResNet-44", 7), ("ResNet-20", 3))
        for removed in sorted({blocks // 3, blocks // 2, 2 * blocks // 3})
    ),
    Case("BERT-base", (2,), "K=1, .99"),
    Case("BERT-base", (4,), "K=1, .98"),
    Case("BERT-base", (6,), "second, .98"),
    Case("T5-base", (3, 7), "K=1, .99"),
    Case("T5-base", (4, 9), "second"),
    Case("ResNet-50", (0, 1, 1, 0), "K=1, .98"),
    Case("ResNet-50", (1, 2, 3, 0), "K=1, .95"),
    Case("ResNet-50", (2, 3, 3, 0), "second, .95"),
    Case("ResNet-152", (0, 2, 21, 1), "K=1, .99"),
    Case("ResNet-152", (0, 2, 25, 1), "K=1, .98"),
    Case("ResNet-152", (0, 4, 31, 1), "second K=1, .98"),
)
MODELS = tuple(dict.fromkeys(case.model for case in CASES))

FLAGS = run_state.new_flags()
flags.DEFINE_list("models", list(MODELS), f"Among {MODELS}.", flag_values=FLAGS)
flags.DEFINE_integer("repeats", 20, "Timed calls.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "batch_size",
    0,
    "Examples of a call; by default 32, of ImageNet's and T5's 8.",
    lower_bound=0,
    flag_values=FLAGS,
)


def unpruned(name: str) -> Any:
    """Returns a model at its true size."""
    from experiments import mpruner_parameters
    from jaxprune.models import bert, resnet

    if name == "MiniLM-L6":
        head = bert.Head.CLASSIFICATION
        return bert.prunable_bert(bert.minilm_config(head=head, num_labels=6))
    if name in ("ResNet-20", "ResNet-44", "ResNet-56"):
        return resnet.prunable_resnet(resnet.cifar_config(int(name[7:])))
    return mpruner_parameters.unpruned(name)


def inputs_of(name: str, batch_size: int, key: Any) -> Any:
    """Returns a batch: images of their usual size, or texts of 64 tokens."""
    import jax
    import jax.numpy as jnp

    from jaxprune.models import text

    if name.startswith("ResNet"):
        pixels = 224 if name in ("ResNet-50", "ResNet-152") else 32
        size = batch_size or (8 if pixels == 224 else 32)
        return jax.random.normal(key, (size, pixels, pixels, 3))
    shape = (batch_size or (8 if name == "T5-base" else 32), 64)
    tokens, counts = jax.random.randint(key, shape, 1, 1000), jnp.ones(shape, jnp.int32)
    if name == "T5-base":
        return text.Seq2Seq(tokens, counts, tokens[:, :16], counts[:, :16])
    return text.Text(tokens, counts)


def measure(case: Case, batch_size: int, repeats: int, key: Any) -> dict[str, Any]:
    """Returns the row of one structure.

    Args:
        case: the structure.
        batch_size: examples of a call; 0 for the default.
        repeats: timed calls.
        key: of weights and inputs.
    """
    import jax

    from experiments import mpruner_parameters
    from jaxprune import cost

    base = unpruned(case.model)
    pruned = base.build(mpruner_parameters.structure(base, case.removed))
    inputs = inputs_of(case.model, batch_size, key)
    compiled, args, flops = {}, {}, {}
    for name, model in (("unpruned", base), ("pruned", pruned)):
        variables = jax.jit(model.init)(key)
        args[name] = (variables, inputs)
        compiled[name] = jax.jit(model.apply).lower(variables, inputs).compile()
        flops[name] = cost.count_flops(model.apply, variables, inputs)
    latency = cost.compare_latency(compiled, args, num_repeats=repeats)
    params = {n: cost.count_parameters(v["params"]) for n, (v, _) in args.items()}
    seconds = {name: 1e-3 * found.median_ms for name, found in latency.items()}
    base_flops, pruned_flops = flops["unpruned"], flops["pruned"]
    return {
        "name": case.name,
        "setting": case.setting,
        "peer": "unpruned",
        "ours_seconds": seconds["pruned"],
        "peer_seconds": seconds["unpruned"],
        "ratio": seconds["pruned"] / seconds["unpruned"],
        "flops_ratio": pruned_flops and base_flops and pruned_flops / base_flops,
        "params_ratio": params["pruned"] / params["unpruned"],
        "blocks": [
            sum(stack.num_blocks for stack in model.stacks) for model in (base, pruned)
        ],
        "ours_quartiles_seconds": [1e-3 * q for q in latency["pruned"][1:3]],
        "peer_quartiles_seconds": [1e-3 * q for q in latency["unpruned"][1:3]],
        "repeats": repeats,
        "batch_size": jax.tree.leaves(inputs)[0].shape[0],
        "device": jax.devices()[0].device_kind,
    }


def describe(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the table for a terminal and the documents, ratios in per cent."""
    header = ["model", "blocks", "params", "FLOPs", "latency", "of FLOPs", "ms", "from"]
    cells = []
    for row in rows:
        flops = row["flops_ratio"]
        cells.append(
            [
                row["name"],
                "{} to {}".format(*row["blocks"]),
                f"{100 * row['params_ratio']:.1f}",
                f"{100 * flops:.1f}" if flops else "",
                f"{100 * row['ratio']:.1f}",
                f"{100 * (row['ratio'] / flops - 1):+.1f}" if flops else "",
                f"{1e3 * row['ours_seconds']:.1f}",
                row["setting"],
            ]
        )
    return text_table.render(header, cells)


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then measures."""
    del argv
    for name in FLAGS.models:
        if name not in MODELS:
            known = ", ".join(MODELS)
            raise run_state.usage_error("models", name, f"must be among {known}")
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("depth.json",),
        volatile=("models",),
        overwrite=FLAGS.overwrite,
    )
    run_state.record(run.workdir, device=run_state.describe_device())
    path = run.workdir / "depth.json"
    report = json_files.read_json(path, missing={"rows": [], "skipped": []})
    rows = {row["name"]: row for row in report["rows"]}

    import jax

    key = jax.random.key(FLAGS.seed)
    asked = [case for case in CASES if case.model in FLAGS.models]
    for case in progress.track(asked, "structures"):
        if case.name in rows:
            continue
        rows[case.name] = measure(case, FLAGS.batch_size, FLAGS.repeats, key)
        report["rows"] = list(rows.values())
        json_files.write_json_atomic(path, report)
        # Compiled programs of models that come no more hold gigabytes.
        jax.clear_caches()
        gc.collect()
    print(describe(report["rows"]))
    print(f"\nrows: {path}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
