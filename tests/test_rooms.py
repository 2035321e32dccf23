"""The rooms: how many there are, which way imports run between them, and how functions are called.

A room is a folder, or a file that lies directly in the folder looked at; an arrow is an import between two rooms.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import combo_avs

ROOT = Path(combo_avs.__file__).parent
FOLDERS = ("commands", "data", "model", "pipeline")
MOST_PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the package under its dotted name."""
    paths = [*ROOT.glob("*.py"), *(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))]
    parsed = {}
    for path in paths:
        parts = path.relative_to(ROOT).with_suffix("").parts
        parsed[".".join(parts)] = ast.parse(path.read_text())
    return parsed


def imported(name: str) -> Iterator[str]:
    """Modules that a module imports, wherever in its text; a package stands for its `__init__`."""
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = ".".join([*name.split(".")[: -node.level], *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                for target in (f"{base}.{alias.name}", f"{base}.{alias.name}.__init__", base, f"{base}.__init__"):
                    if target.strip(".") in modules():
                        yield target.strip(".")
                        break


def arrows(place: str) -> dict[str, set[str]]:
    """The rooms of a folder, each with those that it imports from."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in modules():
        if name.startswith(f"{place}.") and name != f"{place}.__init__":
            room = name.split(".")[1]
            found[room] |= {t.split(".")[1] for t in imported(name) if t.startswith(f"{place}.")} - {room, "__init__"}
    return found


@pytest.mark.parametrize(("place", "most_rooms", "most_arrows"), [("pipeline", 16, 55), ("data", 13, 20)])
def test_rooms_are_few_and_no_arrow_runs_back(place: str, most_rooms: int, most_arrows: int) -> None:
    graph = arrows(place)
    assert len(graph) <= most_rooms, sorted(graph)
    assert sum(map(len, graph.values())) <= most_arrows, dict(graph)
    TopologicalSorter(graph).prepare()  # raises CycleError where rooms import each other in a circle


def functions() -> Iterator[tuple[str, list[ast.arg], list[ast.arg]]]:
    """Name, positional and all parameters of every function; those of commands are options for typer."""
    for name, module in modules().items():
        if name.startswith("commands.") or name == "cli":
            continue
        for node in ast.walk(module):
            if isinstance(node, Function):
                positional = [a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]
                yield f"{name}.{node.name}", positional, [*positional, *node.args.kwonlyargs]


def test_no_function_takes_many_parameters() -> None:
    many = {name: len(every) for name, _, every in functions() if len(every) > MOST_PARAMETERS}
    assert many == {}


def test_booleans_are_passed_by_name() -> None:
    found = [
        f"{name}({parameter.arg})"
        for name, positional, _ in functions()
        for parameter in positional
        if parameter.annotation is not None and ast.unparse(parameter.annotation) == "bool"
    ]
    assert found == []
