"""Exchange with outside pseudo-Boolean solvers: queries as OPB, models back.

The format is that of the pseudo-Boolean competitions, without an objective; every
model is a counterexample, and a query without a model is robust.
"""

from jaxsnn.sat.check import formula
from jaxsnn.sat.encode import Encoding
from jaxsnn.sat.pseudo_boolean import Problem


def write_opb(encoding: Encoding, index: int) -> str:
    """Returns one query of an encoding as OPB.

    Args:
      encoding: of nested queries.
      index: which of them.

    >>> import numpy as np
    >>> from jaxsnn.sat.encode import encode
    >>> from jaxsnn.sat.query import linf_query
    >>> from jaxsnn.sat.spec import Dense, IntegerNetwork
    >>> layer = Dense(np.array([[3, -1], [-1, 3]]), np.array([1, 1]))
    >>> network = IntegerNetwork((layer,), num_steps=8)
    >>> query = linf_query(np.array([1, 4]), label=0, radius=2, num_steps=8)
    >>> write_opb(encode(network, [query]), 0).splitlines()[0]
    '* #variable= 17 #constraint= 24'
    """
    problem = encoding.problem
    selected = Problem()
    selected.num_variables = problem.num_variables
    units = [(lit,) for lit in encoding.assumptions[index]]
    selected.clauses = [*problem.clauses, *units]
    selected.reified = problem.reified
    return formula.opb(list(formula.constraints(selected)))


def read_model(output: str) -> frozenset[int] | None:
    r"""Returns the true literals of a solver's output, for `Encoding.decode`.

    Reads the `v` lines of the competitions' output format; None if there are none.

    Raises:
      ValueError: a word that is no literal (named).

    >>> sorted(read_model("s SATISFIABLE\nv x1 -x2\nv x3\n"))
    [-2, 1, 3]
    """
    words = [
        word
        for line in output.splitlines()
        if line.startswith("v ")
        for word in line.split()[1:]
    ]
    if not words:
        return None
    found = set()
    for word in words:
        sign, name = (-1, word[1:]) if word[0] in "-~" else (1, word)
        if not (name.startswith("x") and name[1:].isdecimal()):
            raise ValueError(f"{word!r} is no literal of an exported query")
        found.add(sign * int(name[1:]))
    return frozenset(found)
