r"""What the similarity of all blocks costs, next to the plain forward pass.

    python -m experiments.benchmarks.cka --workdir=OUT --models=resnet20,resnet56

Three questions: the seconds of a batch with and without analysis; the same against CKA
pair by pair, as common PyTorch tools compute it; and how the analysis alone grows with
the number of blocks L, examples n and features d, with a fitted exponent. Programs are
compiled beforehand and measured in turn, so that a busy machine slows all alike.
`cka.json` holds the rows, whose `ratio` is the peer's time over ours; `cka.png` draws
them.
"""

import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from experiments import json_files, progress, run_state, text_table

_RESNETS = {f"resnet{depth}": depth for depth in (8, 20, 32, 44, 56, 110)}
# Encoders of text: width, blocks and heads; sequences of 64 tokens.
_BERTS = {"bert-tiny": (128, 2, 2), "minilm": (384, 6, 12), "bert-base": (768, 12, 12)}
_MODELS = (*_RESNETS, *_BERTS)
_TOKENS = 64
_FORWARD = "forward pass without analysis"
_PAIRWISE = "pairwise CKA, one Gram product and trace a pair"

# Sizes of the scaling measurements: the one that grows, and the others meanwhile.
_SIZES = {"L": (4, 8, 16, 32), "n": (64, 128, 256, 512), "d": (1024, 4096, 16384)}
_FIXED = {"L": 8, "n": 128, "d": 4096}

FLAGS = run_state.new_flags()
flags.DEFINE_list(
    "models",
    ["resnet20", "resnet56", "minilm"],
    f"Among {', '.join(_MODELS)}; randomly initialised, on 32x32 images or texts of "
    f"{_TOKENS} tokens.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size", 128, "Examples of a batch.", lower_bound=4, flag_values=FLAGS
)
flags.DEFINE_integer(
    "group_size", 32, "Examples in a Gram matrix.", lower_bound=4, flag_values=FLAGS
)
flags.DEFINE_integer(
    "repeats", 7, "Measurements of each program.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_boolean(
    "pairwise", True, "Measure pairwise CKA too, which is slow.", flag_values=FLAGS
)
flags.DEFINE_boolean("scaling", True, "Measure growth too.", flag_values=FLAGS)

Program = Callable[[], Any]


def measure(programs: Mapping[str, Program], repeats: int) -> dict[str, list[float]]:
    """Returns seconds of each program, run in turn after one run that compiles."""
    import jax

    for program in programs.values():
        jax.block_until_ready(program())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def row(
    name: str, peer: str, ours: Sequence[float], theirs: Sequence[float], device: str
) -> dict[str, Any]:
    """Returns a row: medians, median of the paired ratios, and quartiles of each."""
    ratios = np.divide(theirs, ours)
    return {
        "name": name,
        "peer": peer,
        "device": device,
        "ours_seconds": statistics.median(ours),
        "peer_seconds": statistics.median(theirs),
        "ratio": float(np.median(ratios)),
        "spread": {
            "ours_quartiles": np.quantile(ours, [0.25, 0.75]).tolist(),
            "peer_quartiles": np.quantile(theirs, [0.25, 0.75]).tolist(),
            "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
        },
        "repeats": len(ours),
    }


def measure_model(
    name: str,
    batch_size: int,
    group_size: int,
    repeats: int,
    seed: int,
    device: str,
    pairwise: bool,
) -> list[dict[str, Any]]:
    """Returns the rows of one model."""
    import jax

    from experiments.benchmarks.baselines import pairwise_cka
    from jaxprune import similarity

    input_key, init_key = jax.random.split(jax.random.key(seed))
    model, inputs = _build(name, batch_size, input_key)
    activations_fn = model.activations[model.stacks[0].name]
    variables = jax.jit(model.init)(init_key)
    estimator = similarity.Estimator(group_size=group_size)
    fused = jax.jit(similarity.batch_total_fn(activations_fn, estimator))
    forward = jax.jit(model.apply)
    ours, plain = "ours", "forward"
    programs: dict[str, Program] = {
        plain: functools.partial(forward, variables, inputs),
        ours: functools.partial(fused, variables, inputs, None),
    }
    seconds = measure(programs, repeats)
    label = f"{name}, n={batch_size}, groups of {group_size}"
    rows = [row(label, _FORWARD, seconds[ours], seconds[plain], device)]
    if pairwise:
        capture = jax.jit(lambda v, x: activations_fn(v, x)[1])

        def pair_by_pair() -> Any:
            return pairwise_cka.cka_matrix(capture(variables, inputs))

        few = min(repeats, 3)
        seconds = measure({"peer": pair_by_pair, ours: programs[ours]}, few)
        rows.append(row(label, _PAIRWISE, seconds[ours], seconds["peer"], device))
    return rows


def _build(name: str, batch_size: int, key: Any) -> tuple[Any, Any]:
    """Returns a model and a batch of inputs."""
    import jax
    import jax.numpy as jnp

    from jaxprune.models import bert, resnet, text

    if name in _RESNETS:
        config = resnet.cifar_config(_RESNETS[name])
        shape = (batch_size, *config.image_shape)
        return resnet.prunable_resnet(config), jax.random.normal(key, shape)
    width, depth, heads = _BERTS[name]
    encoder = bert.BertConfig(
        hidden_size=width,
        num_layers=depth,
        num_heads=heads,
        intermediate_size=4 * width,
    )
    size = (batch_size, _TOKENS)
    tokens = jax.random.randint(key, size, 0, encoder.vocab_size, jnp.int32)
    inputs = text.Text(tokens, jnp.ones(size, jnp.int32))
    return bert.prunable_bert(encoder), inputs


def measure_scaling(repeats: int, group_size: int, seed: int) -> dict[str, Any]:
    """Returns sizes, seconds and the fitted exponent of the analysis alone.

    `n` is grown twice: within one Gram matrix, where the work of an example grows with
    n, and in groups of a fixed size, as the library does it.
    """
    import jax

    from jaxprune import similarity

    cases = {"L": None, "d": None, "n in one group": "n", "n in groups": "n"}
    result = {}
    for case, of in cases.items():
        grown = of or case
        seconds = []
        for size in _SIZES[grown]:
            shape = {**_FIXED, grown: size}
            whole = shape["n"] if case == "n in one group" else group_size
            estimator = similarity.Estimator(group_size=whole)
            layers = jax.random.normal(
                jax.random.key(seed), (shape["L"], shape["n"], shape["d"])
            )
            step = jax.jit(functools.partial(_states, estimator=estimator))
            taken = measure({"ours": functools.partial(step, list(layers))}, repeats)
            seconds.append(min(taken["ours"]))
        exponent = np.polyfit(np.log(_SIZES[grown]), np.log(seconds), 1)[0]
        result[case] = {
            "sizes": list(_SIZES[grown]),
            "seconds": seconds,
            "exponent": float(exponent),
            "others": {k: v for k, v in _FIXED.items() if k != grown},
        }
    return result


def _states(layers: Any, estimator: Any) -> Any:
    from jaxprune import similarity

    return similarity.total(similarity.group_states(layers, None, estimator))


def plot(report: Mapping[str, Any], path: pathlib.Path) -> None:
    """Draws seconds of each model beside its peers, and the growth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    labels, values, colors = [], [], []
    for entry in report["rows"]:
        if entry["peer"] == _FORWARD:
            labels += [f"{entry['name']}: forward", "  with analysis"]
            values += [entry["peer_seconds"], entry["ours_seconds"]]
            colors += ["#9aa5b1", "#1f6f8b"]
        else:
            labels.append("  with pairwise CKA")
            values.append(entry["peer_seconds"])
            colors.append("#d1495b")
    places = np.arange(len(values))[::-1]
    drawn = bars.barh(places, values, color=colors)
    bars.set_yticks(places, labels, fontsize=8)
    bars.bar_label(drawn, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
    bars.margins(x=0.15)
    bars.set(xlabel="seconds a batch", title="One batch")
    for name, entry in report["scaling"].items():
        label = f"{name}: exponent {entry['exponent']:.2f}"
        lines.loglog(entry["sizes"], entry["seconds"], marker="o", label=label)
    lines.set(xlabel="size", ylabel="seconds", title="Analysis alone")
    lines.grid(alpha=0.25, which="both")
    if report["scaling"]:
        # Above all lines.
        lines.set_ylim(top=lines.get_ylim()[1] * 20)
        lines.legend(frameon=False, fontsize=8, loc="upper left")
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def describe(report: Mapping[str, Any]) -> str:
    """Returns the report as tables for a terminal."""
    header = ["model", "peer", "ours s", "peer s", "peer/ours", "ours/peer"]
    cells = []
    for r in report["rows"]:
        seconds = [r["ours_seconds"], r["peer_seconds"]]
        cells.append([r["name"], r["peer"], *seconds, r["ratio"], 1 / r["ratio"]])
    parts = [text_table.render(header, cells)]
    if report["scaling"]:
        growth = [[name, s["exponent"]] for name, s in report["scaling"].items()]
        parts.append(text_table.render(["grows with", "exponent"], growth))
    return "\n\n".join(parts)


def main(argv: Sequence[str]) -> None:
    """Checks the flags, then measures."""
    del argv
    for name in FLAGS.models:
        if name not in _MODELS:
            raise run_state.usage_error(
                "models", name, f"must be among {', '.join(_MODELS)}"
            )
    run = run_state.start_run(
        FLAGS.workdir,
        run_state.settings(FLAGS),
        outputs=("cka.json", "cka.png"),
        overwrite=FLAGS.overwrite,
    )
    facts = run_state.describe_device()
    run_state.record(run.workdir, device=facts)
    device = f"{facts['kind']}, {facts['cpu_count']} cores"
    rows: list[dict[str, Any]] = []
    for name in FLAGS.models:
        progress.note(f"measuring {name}")
        rows += measure_model(
            name,
            FLAGS.batch_size,
            FLAGS.group_size,
            FLAGS.repeats,
            FLAGS.seed,
            device,
            FLAGS.pairwise,
        )
    scaling = {}
    if FLAGS.scaling:
        progress.note("measuring growth")
        scaling = measure_scaling(FLAGS.repeats, FLAGS.group_size, FLAGS.seed)
    report = {"rows": rows, "scaling": scaling, "skipped": []}
    json_files.write_json_atomic(run.workdir / "cka.json", report)
    plot(report, run.workdir / "cka.png")
    print(describe(report))
    print(f"\nrows: {run.workdir / 'cka.json'}")


if __name__ == "__main__":
    run_state.run(main, FLAGS)
