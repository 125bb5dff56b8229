"""Tokenizers: those of checkpoints, or made from the words of a training split."""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments import json_files, run_state

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FILES = ("tokenizer.json", "vocab.txt")
# That the tokenizer of a checkpoint may consist of.
ALL_FILES = (
    *_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "spiece.model",
)
# Of a tokenizer that is made from a training split.
VOCABULARY_SIZE = 8192
_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Padding and the end have the numbers that T5 gives them.
_T5_SPECIAL = ("<pad>", "</s>", "<unk>")


def read(directory: pathlib.Path) -> "Tokenizer":
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
    wanted = " or ".join(_FILES)
    raise run_state.usage_error("weights", directory, f"holds no {wanted}")


def _word_pieces(pieces: Sequence[str], *, lower_case: bool) -> "Tokenizer":
    """Returns the tokenizer of BERT with this vocabulary."""
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    ids = {piece: index for index, piece in enumerate(pieces)}
    if missing := [token for token in _BERT_SPECIAL[:4] if token not in ids]:
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


def make(name: str, texts: Sequence[str], size: int = VOCABULARY_SIZE) -> "Tokenizer":
    """Returns a tokenizer that knows the words that texts repeat, the commonest first.

    Args:
        name: of the model: t5 ends a text with a token, others are as BERT.
        texts: of the training split.
        size: of the vocabulary at most, special tokens included.
    """
    special = _T5_SPECIAL if name == "t5" else _BERT_SPECIAL
    vocabulary = [*special, *_repeated_words(texts)][:size]
    if name == "t5":
        return _whole_words(vocabulary)
    return _word_pieces(vocabulary, lower_case=True)


def _repeated_words(texts: Sequence[str]) -> list[str]:
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer()
    splitter = pre_tokenizers.BertPreTokenizer()
    counts = collections.Counter(
        word
        for line in texts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))
    )
    # Words of equal count in alphabetical order: the same texts, the same vocabulary.
    words = sorted(counts, key=lambda word: (-counts[word], word))
    return [word for word in words if counts[word] > 1]


def _whole_words(vocabulary: Sequence[str]) -> "Tokenizer":
    import tokenizers
    from tokenizers import models, normalizers, pre_tokenizers, processors

    ids = {word: index for index, word in enumerate(vocabulary)}
    result = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    result.normalizer = normalizers.BertNormalizer()
    result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    result.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", ids["</s>"])]
    )
    return result


def write(tokenizer: "Tokenizer", directory: pathlib.Path) -> None:
    """Writes a tokenizer so that `read`, and transformers, read it back."""
    tokenizer.save(str(directory / "tokenizer.json"))
    ids = tokenizer.get_vocab()
    pieces = "".join(f"{piece}\n" for piece in sorted(ids, key=ids.__getitem__))
    (directory / "vocab.txt").write_text(pieces, encoding="utf-8")
    if "[CLS]" not in ids:
        pad, end, unknown = _T5_SPECIAL
        facts = {"pad_token": pad, "eos_token": end, "unk_token": unknown}
        facts["tokenizer_class"] = "PreTrainedTokenizerFast"
        json_files.write_json_atomic(directory / "tokenizer_config.json", facts)


def encode(
    tokenizer: "Tokenizer", texts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """Returns the token ids of texts, cut where they are longer than `max_length`."""
    tokenizer.no_padding()
    if max_length is None:
        tokenizer.no_truncation()
    else:
        tokenizer.enable_truncation(max_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
