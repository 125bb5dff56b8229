"""Texts as inputs of a network: the tokenizer of a checkpoint, or one made here."""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments import data, progress, prune_data, run_state
from jaxprune.models import text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
# That a checkpoint's tokenizer may consist of; copied beside the pruned weights.
COPIED_FILES = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
)
# Of a tokenizer that is made from a training split.
VOCABULARY_SIZE = 8192
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def obtain_tokenizer(
    dataset: str, data_dir: str | None, directory: str | None
) -> "Tokenizer":
    """Returns the tokenizer of a checkpoint, or one made from the training split.

    Args:
        dataset: whose training split it is made from.
        data_dir: of the data set.
        directory: of the checkpoint, None if there is none.
    """
    if directory is not None:
        return read_tokenizer(pathlib.Path(directory))
    train = data.load(dataset, "train", data_dir)
    assert train.texts is not None
    return make_tokenizer(train.texts, VOCABULARY_SIZE)


def read_tokenizer(directory: pathlib.Path) -> "Tokenizer":
    """Returns the tokenizer of a checkpoint in Hugging Face layout.

    Raises:
        run_state.UsageError: if there is none, or it cannot be read.
    """
    import tokenizers

    path = directory / "tokenizer.json"
    try:
        if path.is_file():
            return tokenizers.Tokenizer.from_file(str(path))
        path = directory / "vocab.txt"
        if path.is_file():
            pieces = path.read_text(encoding="utf-8").splitlines()
            return _word_pieces(pieces, lower_case=_lower_case(directory))
    # The library raises bare exceptions.
    except Exception as error:
        raise run_state.usage_error(
            "weights", path, f"cannot be read: {error}"
        ) from error
    wanted = " or ".join(TOKENIZER_FILES)
    raise run_state.usage_error("weights", directory, f"holds no {wanted}")


def _word_pieces(pieces: Sequence[str], *, lower_case: bool) -> "Tokenizer":
    """Returns the tokenizer of BERT with this vocabulary."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    ids = {piece: index for index, piece in enumerate(pieces)}
    if missing := [token for token in _SPECIAL[:4] if token not in ids]:
        raise ValueError(f"the vocabulary lacks {', '.join(missing)}")
    result = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    result.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    return result


def _lower_case(directory: pathlib.Path) -> bool:
    path = directory / "tokenizer_config.json"
    if not path.is_file():
        return True
    return bool(json.loads(path.read_text(encoding="utf-8")).get("do_lower_case", True))


def make_tokenizer(texts: tuple[str, ...], size: int) -> "Tokenizer":
    """Returns a tokenizer that knows the words that texts repeat, the commonest first.

    Args:
        texts: of the training split.
        size: of the vocabulary, special tokens included.
    """
    from tokenizers import normalizers, pre_tokenizers

    normalizer, splitter = (
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    )
    counts = collections.Counter(
        word
        for line in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))
    )
    # Words of equal count in alphabetical order: the same texts, the same vocabulary.
    words = sorted(counts, key=lambda word: (-counts[word], word))
    repeated = [word for word in words if counts[word] > 1]
    return _word_pieces([*_SPECIAL, *repeated][:size], lower_case=True)


def write_tokenizer(tokenizer: "Tokenizer", directory: pathlib.Path) -> None:
    """Writes a tokenizer so that `read_tokenizer`, and transformers, read it back."""
    tokenizer.save(str(directory / "tokenizer.json"))
    ids = tokenizer.get_vocab()
    pieces = "".join(f"{piece}\n" for piece in sorted(ids, key=ids.__getitem__))
    (directory / "vocab.txt").write_text(pieces, encoding="utf-8")


def encode(
    tokenizer: "Tokenizer", texts: Sequence[str], length: int | None, max_length: int
) -> text.Text:
    """Returns texts as one batch of tokens.

    Args:
        tokenizer: of the model.
        texts: one or more.
        length: of the batch; that of the longest text if None.
        max_length: tokens after which texts are cut.
    """
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    return text.pad(encoded, length)


def make_prepare(
    tokenizer: "Tokenizer", max_length: int, train: data.Dataset
) -> prune_data.PrepareFn:
    """Returns what makes batches of one length of any split.

    Args:
        tokenizer: of the model.
        max_length: above which texts are cut.
        train: the training split; its longest text decides the length.
    """
    assert train.texts is not None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(train.texts)]
    length = min(max(lengths), max_length)
    if cut := sum(n > length for n in lengths):
        progress.note(
            f"{cut} of {len(lengths)} training texts are cut at {length} tokens"
        )

    def prepare(dataset: data.Dataset) -> tuple[text.Text, np.ndarray]:
        assert dataset.texts is not None
        inputs = encode(tokenizer, dataset.texts, length, length)
        return inputs, np.asarray(dataset.labels, np.int32)

    return prepare
