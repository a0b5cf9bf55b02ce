"""Calls that load code from data or switch a protection off stand nowhere in the packages."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import ROOT

PACKAGES = ("warehouse", "engine", "features", "weak_labels", "active", "flows", "benchmarks", "examples")
MODULES = {"pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
CALLS = {"eval", "torch.load", "yaml.load", "os.system", "numpy.random.seed", "np.random.seed", "random.seed"}
# small-text, a peer of the benchmark of selection, draws from NumPy's global generator and takes no other.
ALLOWED = {"benchmarks/peers/selection.py: np.random.seed"}
WRITTEN = (".py", ".md", ".toml", ".txt", ".j2", "Makefile", "run")
NOT_OURS = {".git", "data", "lake", "tasks", ".siftline", "node_modules"}
KEYWORDS = {("shell", True), ("verify", False), ("allow_pickle", True)}


def problems(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS:
                yield name
            for keyword in node.keywords:
                value = keyword.value
                if isinstance(value, ast.Constant) and (keyword.arg, value.value) in KEYWORDS:
                    yield f"{name}({keyword.arg}={value.value})"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_forbidden_call(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [f"{f.relative_to(ROOT)}: {p}" for f in files for p in problems(ast.parse(f.read_text("utf-8")))]
    assert set(found) <= ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "eval('1')",
        "run('x', shell=True)",
        "torch.load(p)",
        "get(u, verify=False)",
    ],
)
def test_the_check_finds_what_it_is_for(code: str) -> None:
    assert list(problems(ast.parse(code)))


def test_no_path_of_a_machine_in_the_repository() -> None:
    roots = ("/" + "work/", "/" + "tmp/", "/" + "root/", "/" + "home/")
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not (name in NOT_OURS or name.startswith(".venv"))]
        for path in (Path(folder, name) for name in names if name.endswith(WRITTEN)):
            text = path.read_text("utf-8").replace("$HOME/", "")
            found += [f"{path.relative_to(ROOT)}: {root}" for root in roots if root in text]
    assert not found
