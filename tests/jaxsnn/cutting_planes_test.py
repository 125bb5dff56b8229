"""The checker of cutting planes, by hand and by deriving what must follow."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsnn.sat.check import cutting_planes, linear
from jaxsnn.sat.check.errors import ProofError

AT_MOST_ONE_OF_THREE = ((-1, -2, -3), (1, 1, 1), 2)
AT_LEAST_TWO_OF_THREE = ((1, 2, 3), (1, 1, 1), 2)


def test_cutting_planes_by_hand():
    pairs = [((-a, -b), (1, 1), 1) for a, b in ((1, 2), (1, 3), (2, 3))]
    proof = [
        cutting_planes.HEADER,
        "l 1",
        "l 2",
        "l 3",
        "l 4",
        "pol 1 2 + 3 + 2 d",  # 2 + 2 + 2 >= 3, halved and rounded up
        "pol 5 4 +",  # 3 >= 4
        "c 6",
    ]
    assert cutting_planes.check_refutation([*pairs, AT_LEAST_TWO_OF_THREE], proof) == 2


@pytest.mark.parametrize(
    ("long", "extents"),
    [(8, ["NEEDED", "SHORT"]), (0, ["NEEDED", "SHORT", "ALL"])],
)
def test_what_propagation_rests_on_is_derived_although_nothing_names_it(
    monkeypatch, long, extents
):
    formula = [
        ((1, 2), (1, 1), 1),
        ((1, -2), (1, 1), 1),
        ((-1, 3), (1, 1), 1),
        ((-1, -3), (1, 1), 1),
    ]
    steps = ["l 1", "l 2", "pol 1 2 + 2 d", "rup >= 1 ;", "c 4"]
    seen = []
    init = cutting_planes._Checker.__init__

    def noting(self, formula, outline, extent):
        seen.append(extent.name)
        init(self, formula, outline, extent)

    monkeypatch.setattr(cutting_planes._Checker, "__init__", noting)
    monkeypatch.setattr(cutting_planes, "LONG", long)
    proof = [cutting_planes.HEADER, *steps]
    assert cutting_planes.check_refutation(formula, proof) > 0
    assert seen == extents
    without = [line for line in proof if not line.startswith("pol")]
    without[-1] = "c 3"
    with pytest.raises(ProofError, match="does not follow"):
        cutting_planes.check_refutation(formula, without)


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        (["l 1", "l 2"], "without a contradiction"),
        (["l 1", "l 2", "c 1"], "line 4 claims a contradiction"),
        (["l 1", "c 2"], "line 3 names constraint 2 of 1"),
        (["l 1", "c x"], "malformed"),
        (["l 3", "c 1"], "line 2 names constraint 3 of 2"),
        (["l 0", "c 1"], "names constraint 0"),
        (["l 1", "pol 1 2 +", "c 2"], "line 3 names constraint 2 of 1"),
        (["l 1", "pol 1 0 d", "c 2"], "no positive number"),
        (["l 1", "pol 1 x1 0 * +", "c 2"], "no positive number"),
        (["l 1", "pol 1 -1 *", "c 2"], "names '-1'"),
        (["l 1", "pol 1 1", "c 2"], "leaves operands"),
        (["l 1", "pol 1 +", "c 2"], "malformed"),
        (["l 1", "pol x1 +", "c 2"], "malformed"),
        (["l 1", "pol x4 x1 +", "c 2"], "names 'x4'"),
        (["l 1", "pol x1 ~x4 2 * +", "c 2"], "names '~x4'"),
        (["l 1", "pol 1 x0 +", "c 2"], "names 'x0'"),
        (["l 1", "pol 1 yx1 +", "c 2"], "names 'yx1'"),
        (["l 1", "rup +1 x1 >= 1 ;", "c 2"], "line 3 does not follow"),
        (["l 1", "rup +1 x1 >= 1", "c 2"], "malformed"),
        (["l 1", "rup +1 x9 >= 1 ;", "c 2"], "names 'x9'"),
        (["l 1", "rup -1 x1 >= 1 ;", "c 2"], "no positive number"),
        (["red +1 x1 >= 1 ; x1 1"], "unknown rule 'red'"),
        (["l 1", f"pol 1 {2**70} * {2**70} d ~x1 {2**64} * +", "c 2"], "where there"),
    ],
)
def test_wrong_cutting_planes_by_hand(steps, reason):
    # At most one, and at least one: satisfiable, so nothing may pass.
    constraints = [AT_MOST_ONE_OF_THREE, ((1, 2, 3), (1, 1, 1), 1)]
    with pytest.raises(ProofError, match=reason):
        cutting_planes.check_refutation(constraints, [cutting_planes.HEADER, *steps])


@pytest.mark.parametrize(
    ("unneeded", "reason"),
    [
        ("pol 1 x9 +", None),  # it would be wrong, but nothing rests on it
        ("rup +1 x1 >= 1 ;", None),
        ("red", "unknown rule"),
    ],
)
def test_what_the_contradiction_does_not_rest_on_need_not_hold(unneeded, reason):
    pairs = [((-a, -b), (1, 1), 1) for a, b in ((1, 2), (1, 3), (2, 3))]
    steps = [f"l {n}" for n in (1, 2, 3, 4)]
    steps += [unneeded, "pol 1 2 + 3 + 2 d", "pol 6 4 +", "c 7"]
    constraints = [*pairs, AT_LEAST_TWO_OF_THREE]
    proof = [cutting_planes.HEADER, *steps]
    if reason is None:
        assert cutting_planes.check_refutation(constraints, proof) == 2
        return
    with pytest.raises(ProofError, match=reason):
        cutting_planes.check_refutation(constraints, proof)


def test_propagation_may_rest_on_any_line():
    # Without 1, one of 2 and 3 must be and must not be whatever the other is: no unit
    # says so before the sum of the first two, and nothing names that sum.
    signs = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    clauses = [((1, 2 * a, 3 * b), (1, 1, 1), 1) for a, b in signs]
    constraints = [*clauses, ((-1,), (1,), 1)]
    steps = [*(f"l {n}" for n in (1, 2, 3, 4)), "pol 1 2 + 2 d", "rup +1 x1 >= 1 ;"]
    proof = [cutting_planes.HEADER, *steps, "l 5", "pol 6 7 +", "c 8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting_planes, "Propagator", WithoutUnits)
        assert cutting_planes.check_refutation(constraints, proof) == 3
        del proof[5]
        proof[-3:] = ["l 5", "pol 5 6 +", "c 7"]
        with pytest.raises(ProofError, match="line 6 does not follow"):
            cutting_planes.check_refutation(constraints, proof)


class WithoutUnits(linear.Propagator):
    """Propagation that the last clause of the formula has not ended already."""

    def add(self, constraint):
        if len(constraint.variables) > 1:
            super().add(constraint)


def test_another_header_is_refused():
    with pytest.raises(ProofError, match="begin"):
        cutting_planes.check_refutation([], ["pseudo-Boolean proof version 2.0"])


TERMS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 5), st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda term: term[1],
)


EXPRESSIONS = st.recursive(
    st.sampled_from(["1", "2", "3", "x1", "~x2", "x5", "~x4"]),
    lambda parts: st.one_of(
        st.tuples(parts, parts).map(lambda pair: f"{pair[0]} {pair[1]} +"),
        st.tuples(parts, st.sampled_from(["2 *", "3 *", "2 d", "3 d", "s"])).map(
            " ".join
        ),
    ),
    max_leaves=8,
)


def derive(constraints, expression):
    """Evaluates as the checker does: coefficients by variable, and bound."""
    mentioned = ((1, 2, 3, 4, 5), (1, 1, 1, 1, 1), 0)
    outline = cutting_planes._Outline(0, {})
    checker = cutting_planes._Checker([*constraints, mentioned], outline, True)
    for number, constraint in enumerate(constraints, start=1):
        checker._known[number] = checker._given(constraint)
    variables, coefficients, bound = checker._evaluate(expression, len(constraints) + 1)
    pairs = zip(variables.tolist(), coefficients.tolist(), strict=True)
    return {variable: int(c) for variable, c in pairs}, bound


def derive_by_dictionaries(constraints, expression):
    """The same by the rules over literals, one term after the other."""

    def cancelled(terms, degree):
        """Without pairs of opposite literals, which are one together."""
        for lit in [lit for lit in terms if lit > 0 and -lit in terms]:
            common = min(terms[lit], terms[-lit])
            terms = {**terms, lit: terms[lit] - common, -lit: terms[-lit] - common}
            degree -= common
        return {lit: w for lit, w in terms.items() if w}, degree

    stack, number = [], 0
    words = expression.split()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.isdecimal() and following in ("*", "d"):
            number = int(word)
        elif word.isdecimal():
            lits, weights, bound = constraints[int(word) - 1]
            stack.append((dict(zip(lits, weights, strict=True)), bound))
        elif word == "+":
            (one, left), (other, right) = stack.pop(), stack.pop()
            lits = {*one, *other}
            terms = {lit: one.get(lit, 0) + other.get(lit, 0) for lit in lits}
            stack.append(cancelled(terms, left + right))
        elif word == "*":
            terms, degree = stack.pop()
            scaled = {lit: w * number for lit, w in terms.items()}
            stack.append((scaled, degree * number))
        elif word == "d":
            terms, degree = stack.pop()
            divided = {lit: -(-w // number) for lit, w in terms.items()}
            stack.append((divided, -(-degree // number)))
        elif word == "s":
            terms, degree = stack.pop()
            most = max(degree, 0)
            stack.append(({lit: min(w, most) for lit, w in terms.items()}, most))
        else:
            sign = -1 if word[0] == "~" else 1
            stack.append(({sign * int(word.strip("~x")): 1}, 0))
    ((terms, degree),) = stack
    coefficients = {abs(lit): w if lit > 0 else -w for lit, w in terms.items() if w}
    return coefficients, degree - sum(w for lit, w in terms.items() if lit < 0)


def as_sum(constraint):
    """Returns a constraint over up to five variables as the checker keeps it."""
    total = linear.Total(5)
    total.add_constraint(constraint)
    return total.finish()


@settings(max_examples=50, deadline=None)
@given(
    formulas=st.lists(st.tuples(TERMS, st.integers(1, 12)), min_size=3, max_size=4),
    expression=EXPRESSIONS,
    limit=st.sampled_from([2**62, 12]),
)
def test_whatever_a_step_derives_follows(formulas, expression, limit):
    """Every assignment that satisfies the formula satisfies what is derived."""
    constraints = []
    for terms, bound in formulas:
        lits = tuple(v if positive else -v for _, v, positive in terms)
        constraints.append((lits, tuple(w for w, _, _ in terms), bound))
    with pytest.MonkeyPatch.context() as patch:  # a low limit: Python's integers
        patch.setattr(linear, "_LIMIT", limit)
        derived = derive(constraints, expression)
    assert derived == derive_by_dictionaries(constraints, expression)

    def holds(constraint, values):
        lits, weights, bound = constraint
        total = sum(
            w * (values[abs(lit) - 1] == (lit > 0))
            for w, lit in zip(weights, lits, strict=True)
        )
        return total >= bound

    for values in itertools.product([0, 1], repeat=5):
        if all(holds(constraint, values) for constraint in constraints):
            coefficients, bound = derived
            total = sum(c * values[v - 1] for v, c in coefficients.items())
            assert total >= bound


@settings(max_examples=50, deadline=None)
@given(
    formulas=st.lists(st.tuples(TERMS, st.integers(1, 12)), min_size=2, max_size=6),
    lemma=st.tuples(TERMS, st.integers(1, 8)),
)
def test_propagation_only_accepts_what_follows(formulas, lemma):
    def constraint(terms, bound):
        lits = tuple(v if positive else -v for _, v, positive in terms)
        return lits, tuple(w for w, _, _ in terms), bound

    def satisfied(given_constraint, values):
        lits, weights, bound = given_constraint
        reached = [
            w
            for w, lit in zip(weights, lits, strict=True)
            if values[abs(lit) - 1] == (lit > 0)
        ]
        return sum(reached) >= bound

    constraints = [constraint(*each) for each in formulas]
    wanted = constraint(*lemma)
    verdicts = set()
    for long in (0, 32):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear, "LONG", long)
            propagator = linear.Propagator(5)
            for each in constraints:
                propagator.add(as_sum(each))
            negation = as_sum(wanted).negated()
            verdicts.add(propagator.refutes(negation))
            verdicts.add(propagator.refutes(negation))  # nothing is left behind
    (accepted,) = verdicts
    if accepted:
        for values in itertools.product([0, 1], repeat=5):
            if all(satisfied(each, values) for each in constraints):
                assert satisfied(wanted, values)
