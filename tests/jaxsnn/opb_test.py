"""Exported queries, read by a parser of the test and solved by an outside solver."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysat.pb import PBEnc
from pysat.solvers import Solver

from jaxsnn.sat import replay
from jaxsnn.sat.encode import encode
from jaxsnn.sat.opb import read_model, write_opb
from tests.jaxsnn import small_networks


def solve_outside(text):
    """Reads OPB and answers in the format of the competitions."""
    header, *lines = text.splitlines()
    variables, constraints = map(int, re.findall(r"\d+", header))
    assert len(lines) == constraints
    clauses, top = [], variables
    for line in lines:
        left, bound = re.fullmatch(r"(.*) >= (-?\d+) ;", line).groups()
        terms = re.findall(r"\+(\d+) (~?)x(\d+)", left)
        lits = [int(v) * (-1 if sign else 1) for _, sign, v in terms]
        weights = [int(weight) for weight, _, _ in terms]
        assert max(map(abs, lits)) <= variables
        encoded = PBEnc.geq(lits=lits, weights=weights, bound=int(bound), top_id=top)
        clauses += encoded.clauses
        top = max(top, encoded.nv)
    with Solver(name="minisat22", bootstrap_with=clauses) as solver:
        if not solver.solve():
            return "s UNSATISFIABLE\n"
        model = solver.get_model()[:variables]
    words = " ".join(f"{'-' if lit < 0 else ''}x{abs(lit)}" for lit in model)
    return f"s SATISFIABLE\nv {words}\n"


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_outside_solver_decides_what_enumeration_does(data):
    network = data.draw(small_networks.networks(max_steps=5))
    queries = data.draw(small_networks.nested_queries(network))
    encoding = encode(network, queries)
    for index, query in enumerate(queries):
        model = read_model(solve_outside(write_opb(encoding, index)))
        assert (model is None) == small_networks.is_robust(network, query)
        if model is not None:
            steps = encoding.decode(index, model)
            assert query.admits(steps)
            assert query.violated_by(replay.spike_steps(network, steps)[-1])


def test_what_is_no_literal_is_named():
    with pytest.raises(ValueError, match="'y7'"):
        read_model("v x1 y7\n")
