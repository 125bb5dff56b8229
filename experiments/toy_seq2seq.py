"""Digits to be sorted: texts with answers, from a formula.

A toy for models that read one sequence and write another: it needs no download, and a
small network learns it within minutes. It says nothing about language.
"""

# Digits of a text.
LENGTHS = (4, 5, 6, 7)
PER_LENGTH = 4000
_FIRST = {"train": 0, "validation": 3200, "test": 3600}
_AFTER = {"train": 3200, "validation": 3600, "test": PER_LENGTH}
# Near the golden section of a million, and prime to ten: multiples spread evenly over
# the numbers below a power of ten, and come to none of them twice.
_STEP = 618_033


def sorted_digits(split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the texts of a split and their answers.

    Args:
        split: train, validation or test; no text is in two of them.

    >>> texts, answers = sorted_digits("test")
    >>> texts[1], answers[1], len(texts)
    ('1 8 8 0 0', '0 0 1 8 8', 1600)
    """
    numbers = range(_FIRST[split], _AFTER[split])
    texts = [_text(number, length) for number in numbers for length in LENGTHS]
    answers = (" ".join(sorted(text.split())) for text in texts)
    return tuple(texts), tuple(answers)


def _text(number: int, length: int) -> str:
    return " ".join(f"{number * _STEP % 10**length:0{length}d}")
