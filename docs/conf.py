"""Sphinx configuration; `make docs` builds into build/docs, warnings are errors."""

import pathlib
import re
import sys

_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import jaxprune  # noqa: E402

project = "prune-and-prove"
author = "The prune-and-prove authors"
copyright = "2026, " + author
release = jaxprune.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"

# The reference is made from the sources: a page for each module.
apidoc_modules = [
    {
        "path": str(_ROOT / package),
        "destination": f"api/{package}",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
    for package in ("jaxprune", "jaxsnn")
]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Backticks mean code in the docstrings, as in Markdown.
default_role = "code"
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Guarantees"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3


def _skip_tuple_fields(app, what, name, member, skip, options):
    """Leaves out the fields of named tuples, which their class describes."""
    del app, what, name, options
    return skip or type(member).__name__ == "_tuplegetter"


def _mark_literal_blocks(app, what, name, obj, options, lines):
    """Makes an indented block after a paragraph code, as Markdown has it."""
    del app, what, name, obj, options
    marked, paragraph = [], ""
    for position, line in enumerate(lines):
        if line.startswith("    ") and lines[position - 1] == "" and paragraph:
            marked += ["::", ""]
        marked.append(line)
        if line:
            is_text = not re.match(r"\s|[-*>.]|\d+\.|[A-Z]\w*:$", line)
            paragraph = line if is_text else ""
    lines[:] = marked


def setup(app):
    """Registers the hooks; blocks are marked before napoleon reads the sections."""
    app.connect("autodoc-skip-member", _skip_tuple_fields)
    app.connect("autodoc-process-docstring", _mark_literal_blocks, priority=400)
