"""Runs the examples in docstrings and in the documents."""

import doctest
import importlib
import pathlib
import re
import warnings

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("jaxprune", "jaxsnn", "experiments")
# tests/jaxprune/guide_test.py runs this one and looks at what it computes.
ELSEWHERE = "docs/guide_prune.md"
DOCUMENTS = (
    "README.md",
    *sorted({f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")} - {ELSEWHERE}),
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^```(python|pycon)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def module_names() -> list[str]:
    """Returns the names of all modules that have an example in their text."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", module_names())
def test_docstrings(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.attempted > 0
    assert result.failed == 0, f"{result.failed} examples of {name}; see the output"


def documents_with_examples() -> list[str]:
    return [
        d for d in DOCUMENTS if FENCE.search((ROOT / d).read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("document", documents_with_examples())
def test_documents(document, tmp_path, monkeypatch):
    """Runs all Python blocks of a document in order, as one session.

    Blocks with prompts are compared with the output shown; others must just run.
    """
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    text = (ROOT / document).read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        block = match[2]
        if ">>> " in block:
            test = doctest.DocTestParser().get_doctest(
                block, names, document, str(ROOT / document), line
            )
            runner = doctest.DocTestRunner(optionflags=OPTIONS)
            runner.run(test, clear_globs=False)
            assert runner.summarize(verbose=False).failed == 0, f"{document}:{line}"
            names = test.globs
        else:
            code = compile("\n" * line + block, document, "exec")
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)
                exec(code, names)
