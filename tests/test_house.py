"""The house itself: what is packaged, what stands where, and what the README promises."""

import ast
import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import combo_avs

ROOT = Path(combo_avs.__file__).parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")


def listed(section: str, key: str) -> set[str]:
    return set(SETUP[section][key].split())


def test_every_package_folder_is_listed() -> None:
    folders = {p.parent.relative_to(ROOT) for p in ROOT.rglob("__init__.py") if not p.is_relative_to(ROOT / ".venv")}
    names = {".".join(["combo_avs", *f.parts]) for f in folders if "build" not in f.parts}
    assert names == listed("options", "packages")


def test_constraints_pin_every_dependency_within_its_range() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if "==" in line)
    extras = "".join(SETUP["options.extras_require"].values())
    for line in (SETUP["options"]["install_requires"] + extras).strip().splitlines():
        requirement = Requirement(line)
        if requirement.name == SETUP["metadata"]["name"]:  # one extra names others
            continue
        assert requirement.specifier.contains(pins[requirement.name.lower()]), line


def test_import_contracts_are_kept() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_names_are_imported_from_the_module_that_owns_them() -> None:
    """A name that a module has itself only imported is to be imported from where it is defined."""
    files = [*(p for p in ROOT.rglob("*.py") if not {".venv", "build"} & set(p.relative_to(ROOT).parts))]
    trees = {_module(p): ast.parse(p.read_text()) for p in files}
    owned = {module: _defined(tree) for module, tree in trees.items()}
    borrowed = []
    for path in files:
        for node in (n for n in ast.walk(trees[_module(path)]) if isinstance(n, ast.ImportFrom)):
            origin = _origin(path, node)
            names = {a.name for a in node.names if f"{origin}.{a.name}".lstrip(".") not in owned}
            foreign = names - owned.get(origin, names)
            borrowed += [f"{path.relative_to(ROOT)}:{node.lineno}: {name} is not of {origin}" for name in foreign]
    assert borrowed == []


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _defined(tree: ast.Module) -> set[str]:
    """Functions, classes and variables that a module defines, wherever in it."""
    nodes = list(ast.walk(tree))
    named = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    return named | {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def _origin(path: Path, node: ast.ImportFrom) -> str:
    """The module that an import names, relative to the package; tests import each other by their bare names."""
    if node.level:
        parents = path.relative_to(ROOT).parts[: -node.level]
        return ".".join([*parents, *([node.module] if node.module else [])])
    if node.module == "combo_avs" or node.module.startswith("combo_avs."):
        return node.module.removeprefix("combo_avs").removeprefix(".")
    return f"tests.{node.module}"


@pytest.mark.parametrize("pattern", [r"pickle\.loads?\(", r"weights_only *= *False", r"allow_pickle *= *True"])
def test_nothing_loads_pickles_freely(pattern: str) -> None:
    sources = [p for room in ("data", "model", "pipeline") for p in (ROOT / room).rglob("*.py")]
    assert [p.name for p in sources if re.search(pattern, p.read_text())] == []


def test_the_wheel_holds_the_package_and_nothing_beside_it(tmp_path: Path) -> None:
    unneeded = shutil.ignore_patterns(".*", "build", "demo", "tests", "*.egg-info")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=unneeded)  # a build leaves files behind
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", tmp_path]
    subprocess.run([*command, source], check=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {n.split("/")[0].split("-")[0] for n in names} == {"combo_avs"}
    for needed in (
        "cli.py",
        "pipeline/config/presets/tiny.yaml",
        "pipeline/report/demo.html",
        "model/foundation/none.py",
    ):
        assert f"combo_avs/{needed}" in names


def test_readme_commands_exist() -> None:
    from test_cli import commands

    known = {" ".join(c) for c in commands() if c}
    used = re.findall(r"^combo ((?:import |cache )?[a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert used
    assert set(used) <= known, set(used) - known
