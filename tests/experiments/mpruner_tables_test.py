"""Counted parameters are the published ones, and recipes are runs that exist."""

import pytest

from experiments import (
    json_files,
    mpruner_parameters,
    mpruner_recipes,
    mpruner_tables,
    prune_model,
    run_state,
)

FEW = {
    ("ResNet-152", "K=1, .99"),
    ("ResNet-50", "K=1, .95"),
    ("BERT-base", "K=1, .98"),
    ("T5-base", "K=1, .99"),
    ("T5-base", "second"),
}


@pytest.mark.parametrize(
    "line",
    [x for x in mpruner_parameters.LINES if (x.model, x.setting) in FEW],
    ids=lambda line: f"{line.model} {line.setting}",
)
def test_what_is_left_has_as_many_parameters_as_published(line):
    counted = mpruner_parameters.count(line)
    _, _, decimals = str(line.millions).partition(".")
    assert round(counted.num_params / 1e6, len(decimals)) == line.millions


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, group in mpruner_recipes.GROUPS.items()
        if "{data_dir}" in "".join(group.task)
    ],
)
def test_every_run_of_a_recipe_is_a_command_line(name, monkeypatch, tmp_path):
    """`prune_model` parses each, up to the data that is not here."""
    group = mpruner_recipes.GROUPS[name]
    mpruner_tables.FLAGS.unparse_flags()
    mpruner_tables.FLAGS(["x", "--data_dir=/nowhere", "--minilm=/m", "--workdir=w"])
    names = {setting.name for setting in group.settings}
    assert len(names) == len(group.settings)
    begun = ("--weights=/w/base",)
    for flags_of_run in (group.base, *((*begun, *s.flags) for s in group.settings)):
        arguments = mpruner_tables.arguments_of(
            group, (*flags_of_run, *mpruner_recipes.COMMON, f"--workdir={tmp_path}")
        )
        monkeypatch.setattr(run_state, "_exit_usage", _fail)
        with pytest.raises(_Refused, match="--data_dir=/nowhere"):
            run_state.run(prune_model.main, prune_model.FLAGS, ["x", *arguments])


class _Refused(Exception):
    pass


def _fail(message):
    raise _Refused(message)


REPORT = {
    "base": {"num_blocks": 6, "flops": 200.0, "accuracy": 0.9},
    "pruned": {
        "num_blocks": 3,
        "num_params": 1_500_000,
        "flops": 100.0,
        "accuracy": 0.895,
        "sparsity": 0.0,
    },
    "certificate": {
        "num_examples": 1000,
        "num_lost": 10,
        "num_gained": 5,
        "accuracy_drop_upper_bound": 0.0123,
    },
    "rounds": [
        {"accuracy_after_heal": 0.5, "accepted": False},
        {"accuracy_after_heal": 0.8, "accepted": True},
    ],
}


def test_a_line_says_what_was_lost():
    shown = mpruner_tables.line("K1_0.98", "", REPORT)
    assert shown[1:9] == [
        "6 to 3",
        "1.500000",
        "50 %",
        "80.00",
        "90.00",
        "89.50",
        # 1.96 * sqrt(0.015 - 0.005^2) / sqrt(1000) = 0.0075754
        "+0.50 [-0.26, +1.26]",
        "1.23",
    ]


def test_what_is_done_is_not_run_again(tmp_path, monkeypatch):
    json_files.write_json_atomic(tmp_path / "report.json", {"done": 1})
    monkeypatch.setattr(mpruner_tables.subprocess, "Popen", _fail)
    assert mpruner_tables.prune(tmp_path, []) == {"done": 1}


def test_a_run_that_fails_is_told_with_its_last_words(tmp_path, capfd):
    with pytest.raises(RuntimeError, match="--dataset=digts: "):
        mpruner_tables.prune(tmp_path, ["--model=bert", "--dataset=digts"])
    assert "--dataset=digts" in capfd.readouterr().err


def test_tables_of_other_groups_stay(tmp_path, monkeypatch):
    """Runs begin from the base of their group, and the file grows group by group."""
    asked = []

    def prune(workdir, arguments):
        asked.append((workdir.relative_to(tmp_path / "w"), arguments))
        return REPORT

    monkeypatch.setattr(mpruner_tables, "prune", prune)
    for groups in ("t5_digits", "t5_emotion"):
        argv = [f"--groups={groups}", "--data_dir=d", f"--workdir={tmp_path / 'w'}"]
        argv.append("--settings=K1_0.99")
        with pytest.raises(SystemExit) as exit_info:
            run_state.run(mpruner_tables.main, mpruner_tables.FLAGS, ["x", *argv])
        assert not exit_info.value.code
    # Of the two lines of the first group, the one that was asked for.
    assert [str(where) for where, _ in asked] == [
        "t5_digits/base",
        "t5_digits/K1_0.99",
        "t5_emotion/base",
        "t5_emotion/K1_0.99",
    ]
    assert "--train_epochs=2" in asked[0][1]
    assert f"--weights={tmp_path}/w/t5_digits/base/base" in asked[1][1]
    tables = (tmp_path / "w" / "tables.md").read_text()
    assert tables.count("| K1_0.99 | 6 to 3 |") == 2


def test_a_line_that_is_not_there_is_told(tmp_path, capsys):
    argv = ["x", "--groups=resnet20", "--settings=half", f"--workdir={tmp_path / 'w'}"]
    with pytest.raises(SystemExit) as exit_info:
        run_state.run(mpruner_tables.main, mpruner_tables.FLAGS, argv)
    assert exit_info.value.code == 2
    assert "--settings=half: valid are K1_0.95, " in capsys.readouterr().err
