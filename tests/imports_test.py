"""Who may import whom."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "jaxprune": {"jaxsnn", "experiments", "tests"},
    "jaxsnn": {"jaxprune", "experiments", "tests"},
    "experiments": {"tests"},
}
# The SAT side runs in worker processes that must start in a fraction of a second.
FORBIDDEN_IN_SAT = {"jax", "jaxlib", "flax", "optax", "chex"}


def imported(path: pathlib.Path) -> set[str]:
    """Returns the full names of the modules a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import in line {node.lineno}"
            assert node.module is not None
            found |= {node.module}
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def top_level(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_keep_apart(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in files
        if (names := top_level(imported(path)) & FORBIDDEN[package])
    }
    assert wrong == {}


def test_sat_never_names_jax():
    """Neither directly nor through another part of its package."""
    for path in (ROOT / "jaxsnn" / "sat").rglob("*.py"):
        names = imported(path)
        assert not top_level(names) & FORBIDDEN_IN_SAT, path
        inside = {n for n in names if n.startswith("jaxsnn.")}
        assert all(n.startswith("jaxsnn.sat") for n in inside), (path, inside)


def test_sat_is_imported_without_jax():
    """Every module of it, in a process of its own."""
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "jaxsnn" / "sat").rglob("*.py")
    )
    code = (
        f"import importlib, sys\nfor name in {modules}:\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        f"loaded = {FORBIDDEN_IN_SAT} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("package", ["jaxprune", "jaxsnn"])
def test_public_names_exist_without_extras(package):
    """What an extra installs is imported where it is used, not before."""
    extras = "clingo matplotlib nir ortools PIL ray safetensors sklearn torch"
    code = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras.split()}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import {package}
for name in getattr({package}, "__all__", ()):
    getattr({package}, name)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
