"""The checker of clausal proofs, against other checkers and wrong proofs."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pysat.solvers import Cadical195

from jaxsnn.sat.check import formula, rup
from jaxsnn.sat.check.errors import ProofError

CLAUSES = st.lists(
    st.lists(
        st.integers(1, 6).flatmap(lambda v: st.sampled_from([v, -v])),
        min_size=1,
        max_size=3,
    ),
    min_size=8,
    max_size=40,
)


def pigeonhole(holes):
    """One pigeon more than holes: unsatisfiable, and not by propagation."""

    def sits(pigeon, hole):
        return pigeon * holes + hole + 1

    pigeons = range(holes + 1)
    clauses = [[sits(p, h) for h in range(holes)] for p in pigeons]
    clauses += [
        [-sits(p, h), -sits(q, h)]
        for h in range(holes)
        for p, q in itertools.combinations(pigeons, 2)
    ]
    return clauses


def cadical_proof(clauses):
    with Cadical195(bootstrap_with=clauses, with_proof=True) as solver:
        return solver.get_proof() if not solver.solve() else None


def has_model(clauses):
    top = max(abs(lit) for clause in clauses for lit in clause)
    return any(
        all(
            any(values[abs(lit) - 1] == (lit > 0) for lit in clause)
            for clause in clauses
        )
        for values in itertools.product([False, True], repeat=top)
    )


@pytest.mark.parametrize("holes", [2, 4, 6])
def test_pigeonhole_proofs_pass(holes):
    proof = cadical_proof(pigeonhole(holes))
    assert rup.check_refutation(pigeonhole(holes), proof) > 0


def test_another_checker_agrees():
    dratify = pytest.importorskip("dratify")
    clauses = pigeonhole(5)
    proof = cadical_proof(clauses)
    for lines in (proof, proof[: len(proof) // 2], ["1 0", *proof]):
        accepted = dratify.check_proof(
            dratify.parse_dimacs(formula.dimacs(clauses)), "\n".join(lines)
        ).ok
        try:
            rup.check_refutation(clauses, lines)
        except ProofError:
            assert not accepted
        else:
            assert accepted


@settings(max_examples=50, deadline=None)
@given(clauses=CLAUSES, seed=st.integers(0, 2**31))
def test_every_solver_proof_passes_and_no_satisfiable_formula_is_refuted(clauses, seed):
    """Also when clauses are taken away: then the old proof must fail."""
    proof = cadical_proof(clauses)
    if proof is None:
        with pytest.raises(ProofError):
            rup.check_refutation(clauses, ["0"])
        return
    rup.check_refutation(clauses, proof)
    rng = random.Random(seed)
    kept = [clause for clause in clauses if rng.random() < 0.7] or clauses[:1]
    mutated = [mutate(line, rng) if rng.random() < 0.3 else line for line in proof]
    for other_clauses, other_proof in ((kept, proof), (kept, mutated)):
        try:
            rup.check_refutation(other_clauses, other_proof)
        except ProofError:
            continue
        assert not has_model(other_clauses)


def mutate(line, rng):
    words = line.split()
    index = rng.randrange(len(words))
    words[index] = rng.choice(["1", "-1", "3", "-4", "d", "0"])
    return " ".join(words)


@pytest.mark.parametrize(
    ("proof", "reason"),
    [
        ([], "without the empty clause"),
        (["2 0"], "without the empty clause"),
        (["1 0", "0"], "line 1 does not follow"),
        (["2"], "line 1 does not end"),
        (["2 0 0"], "line 1 does not end"),
        (["2 x 0"], "line 1 is no clause"),
        (["d 1 3 0", "2 0"], "line 1 deletes"),
        (["d 1 2 0", "2 0"], "line 2 does not follow"),
    ],
)
def test_wrong_clausal_proofs_by_hand(proof, reason):
    # Implied: 2. Not implied: 1, nor anything of 3 and 4 alone.
    clauses = [[1, 2], [-1, 2], [3, 4, -2], [-3, 4, -2], [3, -4, -2]]
    with pytest.raises(ProofError, match=reason):
        rup.check_refutation(clauses, proof)


def test_deleted_units_stay_implied():
    clauses = [[1], [-1, 2], [-2, 3], [-3, 4, 5], [4, -5], [-4, 5], [-4, -5]]
    assert rup.check_refutation(clauses, ["d 1 0", "d 2 -1 0", "4 0"]) == 1
