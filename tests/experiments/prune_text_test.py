"""Tokenizers of checkpoints and of texts alone, and batches of one length."""

import json

import numpy as np
import pytest

from experiments import data, prune_text

tokenizers = pytest.importorskip("tokenizers")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "i", "feel", "##ing", "so"]


def texts(*lines):
    labels = np.zeros(len(lines), np.int32)
    return data.Dataset("emotion", "train", labels, ("joy",), texts=lines)


def tokens(tokenizer, line):
    return tokenizer.encode(line).tokens


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    return tmp_path


def test_a_vocabulary_is_read_as_bert_reads_it(checkpoint):
    tokenizer = prune_text.read_tokenizer(checkpoint)
    expected = ["[CLS]", "i", "feel", "##ing", "[UNK]", "[SEP]"]
    assert tokens(tokenizer, "I feeling blue") == expected


def test_case_counts_where_the_checkpoint_says_so(checkpoint):
    (checkpoint / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = prune_text.read_tokenizer(checkpoint)
    assert tokens(tokenizer, "I so") == ["[CLS]", "[UNK]", "so", "[SEP]"]


def test_tokenizer_json_goes_before_the_vocabulary(checkpoint):
    made = prune_text.make_tokenizer(("a b", "a b"), 100)
    made.save(str(checkpoint / "tokenizer.json"))
    tokenizer = prune_text.read_tokenizer(checkpoint)
    assert tokens(tokenizer, "a i") == ["[CLS]", "a", "[UNK]", "[SEP]"]


def test_vocabularies_without_their_special_tokens_are_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("i\nfeel\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: .*lacks \[PAD\]"):
        prune_text.read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot be read"):
        prune_text.read_tokenizer(tmp_path)


def test_a_vocabulary_made_here_is_that_of_the_commonest_words():
    """Three of `b`, two of `a` and `c`, one of `d`, which is left out."""
    tokenizer = prune_text.make_tokenizer(("b a c", "b a c d", "B"), 100)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert words == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "b", "a", "c"]
    small = prune_text.make_tokenizer(("b a c", "b a c d", "B"), 6)
    assert small.get_vocab_size() == 6


def test_batches_have_the_length_of_the_longest_training_text_or_are_cut():
    train = texts("a a", "a a a a a")
    tokenizer = prune_text.make_tokenizer(train.texts, 100)
    inputs, _ = prune_text.make_prepare(tokenizer, 64, train)(texts("a", "a a a a a a"))
    assert inputs.token_ids.shape == (2, 7)
    assert inputs.mask.tolist() == [[1, 1, 1, 0, 0, 0, 0], [1] * 7]
    # A cut text still ends as texts do.
    assert inputs.token_ids[1, -1] == tokenizer.token_to_id("[SEP]")
    inputs, labels = prune_text.make_prepare(tokenizer, 4, train)(train)
    assert inputs.token_ids.shape == (2, 4)
    assert labels.dtype == np.int32
