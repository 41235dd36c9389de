"""The house: imports point down only, and an algorithm imports no other."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "srpo"
FLOORS = [  # from the ground up; a module may import from its own floor and from those below
    {"text"},
    {"errors"},
    {"system"},
    {"config"},
    {"core"},
    {"networks", "losses", "optim", "diffusion", "data", "worlds"},
    {"steps"},
    {"policies", "stages"},
    {"algorithms"},
    {"runs"},
    {"evaluation"},
    {"training", "judging"},
    {"deploy", "convert", "paper", "suite", "tuning"},
    {"commands"},
    {"cli"},
]
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}
MODULES = sorted(SRC.rglob("*.py"))


def room(path):
    return path.relative_to(SRC).with_suffix("").parts[0]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "srpo":
            names = [node.module] if node.module != "srpo" else [f"srpo.{alias.name}" for alias in node.names]
            yield from (n for n in names if "." in n)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("srpo."))


@pytest.mark.parametrize(
    "path", [p for p in MODULES if room(p) not in ("__init__", "__main__")], ids=lambda p: str(p.relative_to(SRC))
)
def test_imports_point_down(path):
    here = FLOOR[room(path)]
    for name in imports(path):
        there = name.split(".")[1]
        assert there not in FLOOR or FLOOR[there] <= here, f"{path.relative_to(SRC)} imports {name}, which is above it"


def test_algorithms_import_no_other():
    for path in (SRC / "algorithms").glob("*.py"):
        others = [n for n in imports(path) if n.startswith("srpo.algorithms") and path.name != "__init__.py"]
        others = [name for name in others if not name.startswith("srpo.algorithms.tables")]
        assert not others, f"{path.name} imports {others}"


def test_all_modules_have_docstrings():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        if path.name not in ("__main__.py",) and tree.body:
            assert ast.get_docstring(tree), f"{path.relative_to(SRC)} has no docstring"


def test_public_names_exist():
    import srpo

    for name in srpo.__all__:
        assert getattr(srpo, name) is not None
    assert srpo.data.sources.register and srpo.worlds.register  # as messages and pages name them
