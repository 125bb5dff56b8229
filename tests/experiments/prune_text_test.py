"""Tokenizers of checkpoints and of texts alone, and batches of one length."""

import json

import jax
import numpy as np
import pytest

from experiments import (
    data,
    json_files,
    prune_models,
    prune_text,
    run_state,
    text_tokenizers,
)
from jaxprune import cost

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
    tokenizer = text_tokenizers.read(checkpoint)
    expected = ["[CLS]", "i", "feel", "##ing", "[UNK]", "[SEP]"]
    assert tokens(tokenizer, "I feeling blue") == expected


def test_case_counts_where_the_checkpoint_says_so(checkpoint):
    (checkpoint / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    tokenizer = text_tokenizers.read(checkpoint)
    assert tokens(tokenizer, "I so") == ["[CLS]", "[UNK]", "so", "[SEP]"]


def test_tokenizer_json_goes_before_the_vocabulary(checkpoint):
    made = text_tokenizers.make("bert", ("a b", "a b"), 100)
    made.save(str(checkpoint / "tokenizer.json"))
    tokenizer = text_tokenizers.read(checkpoint)
    assert tokens(tokenizer, "a i") == ["[CLS]", "a", "[UNK]", "[SEP]"]


def test_vocabularies_without_their_special_tokens_are_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("i\nfeel\n")
    with pytest.raises(ValueError, match=r"vocab\.txt: .*lacks \[PAD\]"):
        text_tokenizers.read(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot be read"):
        text_tokenizers.read(tmp_path)


def test_a_vocabulary_made_here_is_that_of_the_commonest_words():
    """Three of `b`, two of `a` and `c`, one of `d`, which is left out."""
    tokenizer = text_tokenizers.make("bert", ("b a c", "b a c d", "B"), 100)
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert words == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "b", "a", "c"]
    small = text_tokenizers.make("bert", ("b a c", "b a c d", "B"), 6)
    assert small.get_vocab_size() == 6


def test_batches_have_the_length_of_the_longest_training_text_or_are_cut():
    train = texts("a a", "a a a a a")
    tokenizer = text_tokenizers.make("bert", train.texts, 100)
    inputs, _ = prune_text.to_classify(tokenizer, 64, train)(texts("a", "a a a a a a"))
    assert inputs.token_ids.shape == (2, 7)
    assert inputs.mask.tolist() == [[1, 1, 1, 0, 0, 0, 0], [1] * 7]
    # A cut text still ends as texts do.
    assert inputs.token_ids[1, -1] == tokenizer.token_to_id("[SEP]")
    inputs, labels = prune_text.to_classify(tokenizer, 4, train)(train)
    assert inputs.token_ids.shape == (2, 4)
    assert labels.dtype == np.int32


def test_answers_are_the_names_of_classes_and_an_end():
    train = data.Dataset(
        "emotion",
        "train",
        np.array([0, 1, 0], np.int32),
        ("joy", "not so glad"),
        texts=("a a a", "a", "a a"),
    )
    words = [*train.texts, *2 * train.class_names]
    tokenizer = text_tokenizers.make("t5", words)
    ids = tokenizer.get_vocab()
    assert [ids[word] for word in ("<pad>", "</s>", "<unk>")] == [0, 1, 2]
    inputs, labels = prune_text.to_answer(tokenizer, 3, 0, 1, train)(train)
    a, joy, so = ids["a"], ids["joy"], ids["so"]
    assert inputs.token_ids.tolist() == [[a, a, 1], [a, 1, 0], [a, a, 1]]
    assert labels.tolist()[0] == [joy, 1, -100, -100]
    assert labels.tolist()[1] == [ids["not"], so, ids["glad"], 1]
    assert inputs.decoder_ids.tolist()[1] == [0, ids["not"], so, ids["glad"]]
    assert inputs.decoder_mask.tolist()[0] == [1, 1, 0, 0]


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_tokenizers_are_read_back_as_they_were_written(name, tmp_path):
    made = text_tokenizers.make(name, ("a b", "a b c"))
    text_tokenizers.write(made, tmp_path)
    read = text_tokenizers.read(tmp_path)
    assert tokens(read, "b a x") == tokens(made, "b a x")
    assert read.get_vocab() == made.get_vocab()


def test_tokenizers_of_another_model_are_refused(tmp_path):
    """Ids with gaps: fewer tokens than the model has, and yet one it does not know."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "so": 20}
    model = tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]")
    config = {
        "model_type": "bert",
        "vocab_size": 20,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    arguments = ("bert", str(tmp_path), tokenizers.Tokenizer(model), 8, ("no", "yes"))
    json_files.write_json_atomic(tmp_path / "config.json", config)
    message = "gives 'so' the id 20, its model has a vocab_size of 20"
    with pytest.raises(run_state.UsageError, match=message):
        prune_models.for_texts(*arguments)
    json_files.write_json_atomic(tmp_path / "config.json", {**config, "vocab_size": 21})
    assert prune_models.for_texts(*arguments).config.vocab_size == 21


@pytest.mark.peer
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_transformers_reads_the_tokenizers_made_here(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    made = text_tokenizers.make(name, ("a b", "a b c"))
    text_tokenizers.write(made, tmp_path)
    json_files.write_json_atomic(tmp_path / "config.json", {"model_type": name})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs("b a x")["input_ids"] == made.encode("b a x").ids


@pytest.mark.parametrize(
    ("name", "params"), [("bert", 109_486_854), ("t5", 222_903_552)]
)
def test_base_is_the_published_size(name, params):
    tokenizer = text_tokenizers.make(name, ["joy joy anger anger"])
    source = prune_models.for_texts(
        name, None, tokenizer, 32, data.class_names("emotion"), "base"
    )
    shapes = jax.eval_shape(source.model.init, jax.random.key(0))
    assert cost.count_parameters(shapes["params"]) == params
