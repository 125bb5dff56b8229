"""Complete solvers behind one interface, each incremental under assumptions.

A session holds one solver for one problem; clauses learnt in one call help the next.
Solvers that hold Python's lock are run in slices so that every call returns close
to its time limit.
"""

import enum
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from pysat.solvers import Solver

from jaxsnn.sat.cardinality import to_cardinalities
from jaxsnn.sat.cnf import to_cnf
from jaxsnn.sat.pseudo_boolean import TRUE, Problem

# Solvers of PySAT that honour assumptions and conflict budgets. Kissat ignores
# assumptions, so it must never be here.
PYSAT_SOLVERS = ("cadical195", "cadical153", "glucose4", "maplechrono", "minisat22")
# Those that count as well. What they log is no proof, as no rule of it says how counts
# propagate; `jaxsnn.sat.proof` never asks them.
COUNTING_SOLVERS = ("gluecard4", "minicard")

# CaDiCaL cannot be interrupted, only be given so many conflicts. One takes from 0.3 ms
# (16 steps, L1 budget 3) to 7 ms (12 million clauses), so that a slice is fitted to a
# time that limits can bear to be overrun by; slices of 100 conflicts cost nothing
# against those of 2000 on the five queries compared.
_FIRST_SLICE_CONFLICTS = 100
_SLICE_SECONDS = 0.25


class Status(enum.Enum):
    """What one call found."""

    SATISFIABLE = "satisfiable"
    UNSATISFIABLE = "unsatisfiable"
    INTERRUPTED = "interrupted"
    GAVE_UP = "gave up"  # no more time would help


class Answer(NamedTuple):
    """The outcome of one call; `model` holds the true literals if satisfiable."""

    status: Status
    model: frozenset[int] = frozenset()


class Session(Protocol):
    """One solver, kept alive over many calls."""

    def solve(self, assumptions: Sequence[int], seconds: float) -> Answer:
        """Decides the problem under assumptions within a wall-clock limit."""

    def close(self) -> None:
        """Frees the solver."""


class PysatSession:
    """A solver of PySAT: of clauses, or of clauses and native cardinalities."""

    def __init__(self, problem: Problem, solver: str = "cadical195") -> None:
        known = PYSAT_SOLVERS + COUNTING_SOLVERS
        if solver not in known:
            raise ValueError(f"{solver=} is not one of {', '.join(known)}")
        self._num_variables = problem.num_variables
        if solver in COUNTING_SOLVERS:
            cnf, at_most = to_cardinalities(problem)
        else:
            cnf, at_most = to_cnf(problem), []
        self._solver = Solver(name=solver, bootstrap_with=cnf.clauses)
        for lits, bound in at_most:
            self._solver.add_atmost(list(lits), bound)
        self._slice = _FIRST_SLICE_CONFLICTS

    def solve(self, assumptions: Sequence[int], seconds: float) -> Answer:
        """Runs in slices of conflicts until the deadline."""
        now = time.monotonic()
        deadline = now + seconds
        while True:
            began = now
            self._solver.conf_budget(self._slice)
            satisfiable = self._solver.solve_limited(assumptions=list(assumptions))
            if satisfiable:
                model = self._solver.get_model()[: self._num_variables]
                return Answer(Status.SATISFIABLE, frozenset(model))
            if satisfiable is False:
                return Answer(Status.UNSATISFIABLE)
            now = time.monotonic()
            if now >= deadline:
                return Answer(Status.INTERRUPTED)
            pace = self._slice / max(now - began, 1e-6)
            wanted = int(pace * min(_SLICE_SECONDS, deadline - now))
            self._slice = max(1, min(wanted, 4 * self._slice))

    def close(self) -> None:
        """Frees the solver."""
        self._solver.delete()


class ClingoSession:
    """clasp, with every reified constraint as a native weight rule."""

    def __init__(self, problem: Problem) -> None:
        clingo = _import("clingo")
        # Deciding for false first finds counterexamples sooner (9 s became 0.1 s on one
        # query, 0.6 s became 0.01 s on another), and proves as fast.
        options = ["--warn=none", "--configuration=crafty", "--sign-def=neg"]
        self._control: Any = clingo.Control(options)
        self._atoms: dict[int, int] = {}
        with self._control.backend() as backend:
            for variable in range(1, problem.num_variables + 1):
                self._atoms[variable] = backend.add_atom()
            heads = {constraint.head for constraint in problem.reified}
            free = [self._atoms[v] for v in self._atoms if v not in heads]
            backend.add_rule(free, choice=True)
            for constraint in problem.reified:
                body = [
                    (self._literal(lit), weight)
                    for lit, weight in zip(
                        constraint.lits, constraint.weights, strict=True
                    )
                ]
                head = [self._atoms[constraint.head]]
                backend.add_weight_rule(head, constraint.bound, body)
            for clause in problem.clauses:
                backend.add_rule([], [-self._literal(lit) for lit in clause])

    def _literal(self, lit: int) -> int:
        atom = self._atoms[abs(lit)]
        return atom if lit > 0 else -atom

    def solve(self, assumptions: Sequence[int], seconds: float) -> Answer:
        """Runs in clasp's own thread and cancels it at the deadline."""
        literals = [self._literal(lit) for lit in assumptions]
        with self._control.solve(literals, yield_=True, async_=True) as handle:
            handle.resume()
            if not handle.wait(seconds):
                handle.cancel()
                return Answer(Status.INTERRUPTED)
            model = handle.model()
            if model is not None:
                true = (
                    v if model.is_true(atom) else -v for v, atom in self._atoms.items()
                )
                return Answer(Status.SATISFIABLE, frozenset(true))
            result = handle.get()
        if result.unsatisfiable:
            return Answer(Status.UNSATISFIABLE)
        return Answer(Status.INTERRUPTED)

    def close(self) -> None:
        """Frees the solver."""
        self._control.cleanup()


class CpSatSession:
    """OR-Tools CP-SAT; it starts anew with each call."""

    def __init__(self, problem: Problem, workers: int = 1) -> None:
        self._cp_model = _import("ortools.sat.python.cp_model")
        self._model: Any = self._cp_model.CpModel()
        self._workers = workers
        self._variables = [None] + [
            self._model.new_bool_var("") for _ in range(problem.num_variables)
        ]
        for clause in problem.clauses:
            self._model.add_bool_or([self._literal(lit) for lit in clause])
        for head, lits, weights, bound in problem.reified:
            total = sum(
                w * self._literal(lit) for w, lit in zip(weights, lits, strict=True)
            )
            literal = self._literal(head)
            self._model.add(total >= bound).only_enforce_if(literal)
            self._model.add(total < bound).only_enforce_if(literal.Not())

    def _literal(self, lit: int) -> Any:
        variable: Any = self._variables[abs(lit)]
        return variable if lit > 0 else variable.Not()

    def solve(self, assumptions: Sequence[int], seconds: float) -> Answer:
        """Fixes the assumptions in a copy of the model and solves that."""
        model = self._model.clone()
        for lit in assumptions:
            variable = model.get_bool_var_from_proto_index(abs(lit) - 1)
            model.add_bool_or([variable if lit > 0 else variable.Not()])
        solver = self._cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = max(seconds, 1e-3)
        solver.parameters.num_workers = self._workers
        status = solver.solve(model)
        if status in (self._cp_model.OPTIMAL, self._cp_model.FEASIBLE):
            values = solver.response_proto.solution
            true = (v + 1 if value else -v - 1 for v, value in enumerate(values))
            return Answer(Status.SATISFIABLE, frozenset(true))
        if status == self._cp_model.INFEASIBLE:
            return Answer(Status.UNSATISFIABLE)
        return Answer(Status.INTERRUPTED)

    def close(self) -> None:
        """Nothing is kept."""


class ExactSession:
    """Exact, a cutting-planes solver (AGPL; used only where it is installed)."""

    def __init__(self, problem: Problem) -> None:
        self._solver: Any = _import("exact").Exact()
        self._num_variables = problem.num_variables
        for variable in range(1, problem.num_variables + 1):
            self._solver.addVariable(str(variable), 0, 1)
        self._solver.fix(str(TRUE), 1)
        for clause in problem.clauses:
            terms, bound = _over_variables(clause, (1,) * len(clause), 1)
            self._solver.addConstraint(terms, True, bound)
        for head, lits, weights, bound in problem.reified:
            terms, bound = _over_variables(lits, weights, bound)
            self._solver.addReification(str(head), True, terms, bound)

    def solve(self, assumptions: Sequence[int], seconds: float) -> Answer:
        """Runs until the solver's own time limit."""
        self._solver.clearAssumptions()
        self._solver.setAssumptions(
            [(str(abs(lit)), int(lit > 0)) for lit in assumptions]
        )
        state = self._solver.runFull(False, max(seconds, 1e-3))
        if state == "SAT":
            names = [str(v) for v in range(1, self._num_variables + 1)]
            values = self._solver.getLastSolutionFor(names)
            true = (v if value else -v for v, value in enumerate(values, start=1))
            return Answer(Status.SATISFIABLE, frozenset(true))
        if state in ("UNSAT", "INCONSISTENT"):
            return Answer(Status.UNSATISFIABLE)
        return Answer(Status.INTERRUPTED)

    def close(self) -> None:
        """Freed with the object."""


def _over_variables(
    lits: Sequence[int], weights: Sequence[int], bound: int
) -> tuple[list[tuple[int, str]], int]:
    """Rewrites `w * not v` as `w - w * v`."""
    terms = []
    for lit, weight in zip(lits, weights, strict=True):
        if lit < 0:
            bound -= weight
            weight = -weight
        terms.append((weight, str(abs(lit))))
    return terms, bound


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"backend needs {module.split('.')[0]}, which is not installed "
            "(pip install 'prune-and-prove[solvers]')"
        ) from error


BACKENDS: dict[str, Callable[[Problem], Session]] = {
    "exact": ExactSession,
    "clingo": ClingoSession,
    "cpsat": CpSatSession,
    "pysat": PysatSession,
    "gluecard": lambda problem: PysatSession(problem, "gluecard4"),
    "minicard": lambda problem: PysatSession(problem, "minicard"),
}
_MODULES = dict.fromkeys(BACKENDS, "pysat") | {
    "clingo": "clingo",
    "exact": "exact",
    "cpsat": "ortools",
}
# Worth a turn beside others, as far as they are installed; see `portfolio`.
_TAKING_TURNS = ("exact", "clingo", "cpsat", "pysat")


def installed() -> tuple[str, ...]:
    """Returns the names of the backends that can run here."""
    return tuple(
        name
        for name in BACKENDS
        if importlib.util.find_spec(_MODULES[name]) is not None
    )


def portfolio() -> tuple[str, ...]:
    """Returns the installed backends that are worth a turn together.

    CP-SAT repeats its work in every turn, so that it is left out where Exact, which
    decides the same kind of query sooner, is installed.
    """
    names = [name for name in installed() if name in _TAKING_TURNS]
    return tuple(name for name in names if name != "cpsat" or "exact" not in names)
