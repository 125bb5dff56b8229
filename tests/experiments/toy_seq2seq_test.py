import pytest

from experiments import data, model_names, prune_data, prune_text, run_state
from experiments import toy_seq2seq as toy
from jaxprune.models import text

SPLITS = ("train", "validation", "test")


def test_no_text_is_there_twice_and_answers_are_sorted():
    parts = [toy.sorted_digits(split) for split in SPLITS]
    assert [len(texts) for texts, _ in parts] == [12800, 1600, 1600]
    texts = [line for part, _ in parts for line in part]
    assert len(set(texts)) == len(texts)
    for line, answer in zip(*parts[2], strict=True):
        digits = [int(digit) for digit in answer.split()]
        assert digits == sorted(digits)
        assert sorted(line.split()) == answer.split()


def test_every_digit_is_as_frequent_in_every_split():
    for split in SPLITS:
        texts, _ = toy.sorted_digits(split)
        digits = [digit for line in texts for digit in line.split()]
        for digit in "0123456789":
            assert digits.count(digit) / len(digits) == pytest.approx(0.1, abs=0.01)


def test_answers_become_what_is_to_be_written():
    pytest.importorskip("tokenizers")
    tokenizer = prune_text.obtain_tokenizer("t5", "sorted_digits", None, None)
    assert tokenizer.get_vocab_size() == 3 + 10
    train = data.load("sorted_digits", "train")
    prepare = prune_text.to_answer(tokenizer, 64, 0, 1, train)
    test = data.load("sorted_digits", "test", limit=3)
    kept, dropped = prune_data.without_texts(test, (data.load("digits", "test"),))
    assert (dropped, kept.answers) == (0, test.answers)
    batch, labels = prepare(kept)
    assert batch.token_ids.shape == labels.shape == (3, 8)
    for row, answer in enumerate(test.answers):
        counted = labels[row][labels[row] >= 0]
        assert counted[-1] == 1
        assert tokenizer.decode(counted.tolist()) == f"{answer} </s>"
        read = batch.token_ids[row][text.token_mask(batch)[row]]
        assert tokenizer.decode(read.tolist()) == f"{test.texts[row]} </s>"


def test_only_models_that_write_take_it():
    assert model_names.kind("t5", "sorted_digits") is model_names.Kind.PAIRS
    for name in ("bert", "resnet20", "experiments.demo:main"):
        with pytest.raises(run_state.UsageError, match="--dataset=sorted_digits"):
            model_names.kind(name, "sorted_digits")
