"""What a pruning run tells: lines meanwhile, a table and two reports at last."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments import html_report, json_files, progress, text_table
from jaxprune import clusters, mpruner, report

_MEASURES = (
    ("accuracy", "accuracy"),
    ("blocks", "num_blocks"),
    ("parameters", "num_params"),
    ("FLOPs per example", "flops"),
    ("latency, ms per batch", "latency_ms"),
)
_METHODS = {
    "after removal": "accuracy_before_repair",
    "after heal": "accuracy_after_heal",
    "after recovery": "accuracy_after_recovery",
}


def tell(before: mpruner.State, state: mpruner.State, chosen: str) -> None:
    """Says in one line what the loop has just done.

    Args:
        before: the state before.
        state: the state now.
        chosen: how blocks are chosen, in words.
    """
    if before.base_accuracy is None:
        progress.note(f"accuracy of the unpruned model: {state.base_accuracy:.4f}")
    if state.rounds == before.rounds:
        return
    last, number = state.rounds[-1], len(state.rounds)
    if last.accepted is not None:
        verdict = "accepted" if last.accepted else "rejected"
        progress.note(f"round {number}: {verdict}, {last.reason}")
    elif state.step is mpruner.Step.HEAL:
        removed = sum(len(blocks) for blocks in last.removed.values())
        progress.note(
            f"round {number}: removed {removed} blocks {chosen}, stride {last.stride}; "
            f"accuracy {last.accuracy_before_repair:.4f}"
        )
    elif state.step is mpruner.Step.RECOVER:
        accuracy = last.accuracy_after_heal
        progress.note(f"round {number}: healed, accuracy {accuracy:.4f}")


def write(
    workdir: pathlib.Path,
    settings: Mapping[str, Any],
    state: mpruner.State,
    measured: Mapping[str, Any],
    certificate: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes `report.json`, `report.html` and the matrices; prints the summary."""
    assert state.base_similarity is not None
    files = {}
    for name, matrix in state.base_similarity.items():
        single = len(state.base_similarity) == 1
        files[name] = "similarity.npy" if single else f"similarity_{name}.npy"
        np.save(workdir / files[name], matrix)
    # Blocks that the user named were not chosen by a threshold.
    threshold = None if settings["remove"] else settings["threshold"]
    result = {
        **measured,
        "rounds": [_round(attempt, threshold) for attempt in state.rounds],
        "certificate": dict(certificate),
        "similarity": next(iter(files.values())),
        "similarity_by_stack": files,
        **facts,
    }
    json_files.write_json_atomic(workdir / "report.json", result)
    _write_page(workdir / "report.html", settings, state, result)
    print(summary(result))
    print(f"report: {workdir / 'report.html'}")
    return result


def _round(attempt: mpruner.Round, threshold: float | None) -> dict[str, Any]:
    return {
        "threshold": threshold,
        "stride": attempt.stride,
        "removed": {name: list(blocks) for name, blocks in attempt.removed.items()},
        "accuracy_before_repair": attempt.accuracy_before_repair,
        "accuracy_after_heal": attempt.accuracy_after_heal,
        "accuracy_after_recovery": attempt.accuracy_after_recovery,
        "accepted": attempt.accepted,
        "reason": attempt.reason,
        "seconds": attempt.seconds,
    }


def _rows(result: Mapping[str, Any]) -> list[list[Any]]:
    base, pruned = result["base"], result["pruned"]
    return [
        [title, base[key], pruned[key], _change(key, base[key], pruned[key])]
        for title, key in _MEASURES
    ]


def _change(key: str, before: float | None, after: float | None) -> str | None:
    if not before or after is None:
        return None
    if key == "accuracy":
        return f"{100 * (after - before):+.2f} points"
    return f"{100 * (after - before) / before:+.1f} %"


def _certificate_sentence(certificate: Mapping[str, Any]) -> str:
    return (
        f"With {certificate['confidence']:.0%} confidence the accuracy lost is at most "
        f"{100 * certificate['accuracy_drop_upper_bound']:.2f} points "
        f"({100 * certificate['accuracy_drop']:.2f} observed on "
        f"{certificate['num_examples']} examples used for nothing else): the claim of "
        f"at most {100 * certificate['tolerance']:g} "
        f"{'is' if certificate['passed'] else 'is not'} certified."
    )


def _outcome_sentence(result: Mapping[str, Any]) -> str:
    removed = result["base"]["num_blocks"] - result["pruned"]["num_blocks"]
    if removed or result["pruned"]["sparsity"]:
        return _certificate_sentence(result["certificate"])
    if not any(attempt["removed"] for attempt in result["rounds"]):
        return (
            "Nothing was removed: no round was allowed (--max_rounds=0), or no blocks "
            "are alike at this threshold. A lower --threshold makes larger clusters."
        )
    return (
        "Nothing was removed: no cut kept the accuracy. Allow a larger "
        "--max_accuracy_drop, or train after each cut with --recovery_epochs."
    )


def summary(result: Mapping[str, Any]) -> str:
    """Returns the table that ends a run."""
    table = text_table.render(["", "base", "pruned", "change"], _rows(result))
    return f"\n{table}\n\n{_outcome_sentence(result)}"


def _write_page(
    path: pathlib.Path,
    settings: Mapping[str, Any],
    state: mpruner.State,
    result: Mapping[str, Any],
) -> None:
    threshold = settings["threshold"]
    figures = []
    for name, matrix in (state.base_similarity or {}).items():
        kept = result["pruned"]["kept_blocks"][name]
        found = clusters.anchored(matrix, threshold)
        figures.append(
            html_report.Figure(
                report.plot_similarity(matrix, found, kept),
                f"Stack {name!r} of the unpruned model: debiased CKA of the outputs of "
                f"each two blocks. Frames are the clusters at threshold {threshold}; "
                "crossed blocks are gone.",
            )
        )
    rounds = [
        [
            number,
            attempt["stride"],
            _named(attempt["removed"], len(figures) > 1),
            *(attempt[key] for key in _METHODS.values()),
            attempt["reason"],
            round(attempt["seconds"], 1),
        ]
        for number, attempt in enumerate(result["rounds"], start=1)
    ]
    header = ["round", "stride", "removed blocks", *_METHODS, "outcome", "seconds"]
    html_report.write(
        path,
        f"Pruning {settings['model']}",
        [
            html_report.Section(
                "Result",
                [
                    _outcome_sentence(result),
                    f"Unpruned model: {result['base']['origin']}. Repairs without "
                    f"gradients: {_shown(result['pruned']['repairs'])}.",
                    html_report.Table(["", "base", "pruned", "change"], _rows(result)),
                    html_report.Figure(
                        report.plot_before_after(result["base"], result["pruned"]),
                        "Accuracy on the examples of the certificate; latency of a "
                        f"batch of {result['base']['latency_batch_size']}.",
                    ),
                ],
            ),
            html_report.Section(
                "Similarity",
                [
                    *figures,
                    f"The analysis took {result['analysis_seconds']:.2f} s, the "
                    "forward pass alone over the same batches "
                    f"{result['forward_seconds']:.2f} s.",
                ],
            ),
            html_report.Section(
                "Rounds",
                [
                    "Accuracy on the selection examples. Blocks are numbered as in the "
                    "unpruned model.",
                    html_report.Table(header, rounds),
                ],
            ),
            *_zeros(result),
            html_report.Section(
                "Examples",
                [
                    "None is used for two of these, but calibration is a part of "
                    "training, without labels.",
                    html_report.Table(["use", "number"], list(result["data"].items())),
                ],
            ),
            html_report.Section(
                "Settings",
                [
                    html_report.Table(
                        ["flag", "value"],
                        [[key, _shown(value)] for key, value in settings.items()],
                    )
                ],
            ),
        ],
        subtitle=f"{settings['dataset']}, threshold {threshold}",
    )


def _named(removed: Mapping[str, Any], several_stacks: bool) -> str:
    """Returns the blocks of a round, with their stacks where there are several."""
    listed = {name: ", ".join(map(str, blocks)) for name, blocks in removed.items()}
    if not several_stacks:
        return "".join(listed.values())
    return "; ".join(f"{name} {blocks}" for name, blocks in listed.items())


def _test(level: Mapping[str, Any]) -> tuple[float | None, str]:
    """Returns the observed drop, and how the test of one level of zeros ended."""
    certificate = level["certificate"]
    if certificate is None:
        return None, "not tested"
    outcome = "passed" if certificate["passed"] else "failed"
    return certificate["accuracy_drop"], outcome


def _zeros(result: Mapping[str, Any]) -> list[html_report.Section]:
    """Returns the section on weights set to zero, none if there are not any."""
    rows = [
        [f"{100 * level['sparsity']:g} %", level["accuracy"], *_test(level)]
        for level in result["sparsified"]
    ]
    if not rows:
        return []
    told = (
        "Shares of each kernel that are zero, tested from the densest until one "
        "fails; those that passed are certified together."
    )
    header = ["zeros", "accuracy", "drop", "test"]
    return [html_report.Section("Zeros", [told, html_report.Table(header, rows)])]


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
