"""What is told of a wrong flag: one line with its name, value and what would be valid.

Nothing here imports jax, so that it is told at once.
"""

import math
import re

from absl import app, flags

EXIT_USAGE = 2

# Random keys hold 32 bits of a seed; more would be dropped without a word.
_MOST_OF_AN_INTEGER = 2**32


class UsageError(app.UsageError, ValueError):
    """A wrong argument: its message is one line that says what would be valid."""

    def __init__(self, message: str):
        super().__init__(message, exitcode=EXIT_USAGE)


def usage_error(flag: str, value: object, remedy: str) -> UsageError:
    """Returns the error to raise for a flag with an invalid value.

    Args:
        flag: name of the flag, without dashes.
        value: what was given; None when the flag is missing.
        remedy: what would be valid.

    >>> print(usage_error("threshold", 1.5, "must lie in (0, 1]"))
    --threshold=1.5: must lie in (0, 1]
    """
    given = f"--{flag}" if value is None else f"--{flag}={as_typed(value)}"
    return UsageError(" ".join(f"{given}: {remedy}".split()))


def check_numbers(flag_values: flags.FlagValues) -> None:
    """Raises UsageError for numbers that arrays and JSON have no place for."""
    for name, value in flag_values.flag_values_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise usage_error(name, value, "must be a finite number")
        if isinstance(value, int) and abs(value) >= _MOST_OF_AN_INTEGER:
            raise usage_error(name, value, "must be below 2^32")
    if flag_values.workdir == "":
        raise usage_error("workdir", "", "must name a directory")


def line(error: flags.Error, flag_values: flags.FlagValues) -> str:
    """Rewrites an error of absl as flag, value and what would be valid."""
    text = " ".join(str(error).split())
    if unknown := re.match(r"Unknown command line flag '(.*?)'", text):
        close = re.search(r"Did you mean: (.*?) \?", text)
        hint = f"did you mean --{close[1].split(', ')[0]}? " if close else ""
        return f"--{unknown[1]}: unknown flag; {hint}--helpfull lists all"
    if wrong := re.match(r"flag --(\w+)=(.*?): (.*)", text):
        name, value, reason = wrong.groups()
        if name in flag_values and value == "None":
            return f"--{name}: is required: {flag_values[name].help}"
        if name in flag_values and not hasattr(flag_values[name].parser, "enum_values"):
            expected = flag_values[name].parser.syntactic_help
            if flag_values[name].boolean:
                expected = "true or false"
            reason = f"expected {expected}" if expected else reason
        return f"--{name}={value}: {reason}"
    if incomplete := re.fullmatch(r"Missing value for flag --(\w+)", text):
        return f"--{incomplete[1]}: has no value; write --{incomplete[1]}=VALUE"
    return text


def as_typed(value: object) -> str:
    """Returns a value as one types it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(str(v) for v in value)
    return str(value)
