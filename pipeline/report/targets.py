"""What `combo report` can show, recognised by the contents of each folder."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...data.store.location import Location
from ...errors import BadInput
from ..compare.table import read_table
from ..compare.variants import Variant
from ..config.tree import Config
from ..runs.data import RunInfo
from ..runs.folder import read_best, read_run, read_run_log

KINDS = (
    "a run folder (run.json), a comparison (compare.json), a cache root (clips.zarr) or a cache (proposals/NAME.zarr)"
)


@dataclass(frozen=True)
class Run:
    """One run folder. variant: the name that its seeds share; runs of one variant are averaged."""

    folder: Path
    variant: str
    seed: int
    config: Config
    info: RunInfo
    log: list[dict[str, Any]]
    best: dict[str, Any] | None  # metrics of its best weights on val


@dataclass
class Targets:
    """tables: contents of compare.json, by folder. roots: names of the caches to show by cache root; None: all.

    problems: messages about what is missing or damaged.
    """

    runs: list[Run] = field(default_factory=list)
    tables: dict[Path, dict[str, Any]] = field(default_factory=dict)
    roots: dict[Path, list[str] | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find_targets(paths: list[Path], root: str | Location | None = None) -> Targets:
    """root: where the clips and caches of the runs are now; None: where each run says.

    Raises `BadInput` that lists all paths that cannot be shown.
    """
    found = Targets()
    wrong: list[str] = []
    for path in dict.fromkeys(p.absolute() for p in paths):
        try:
            _add(found, path)
        except BadInput as error:
            wrong.append(str(error))
    if wrong:
        raise BadInput.listing("these cannot be shown:", wrong)
    if root is not None:
        found.runs = [replace(run, info=run.info.moved(root)) for run in found.runs]
    _separate_names(found)
    return found


def _add(found: Targets, path: Path) -> None:
    if not path.exists():
        raise BadInput(f"{path}: there is no such folder")
    if (path / "compare.json").exists() or any(path.glob("*/seed-*/run.json")):
        _add_comparison(found, path)
    elif of_roots := sorted({p.parents[2] for p in path.glob("*/*/seed-*/run.json")}):
        for of_root in of_roots:
            _add_comparison(found, of_root)
    elif (path / "run.json").exists() or (path / "config.yaml").exists() or (path / "log.jsonl").exists():
        found.runs.append(read_target(path, found.problems))
    elif (path / "clips.zarr").exists():
        found.roots[path] = None
    elif path.suffix == ".zarr" and path.parent.name == "proposals":
        names = found.roots.setdefault(path.parent.parent, [])
        if names is not None:
            names.append(path.stem)
    else:
        raise BadInput(f"{path}: neither {KINDS}")


def _add_comparison(found: Targets, path: Path) -> None:
    """Add the table and all runs of a comparison. A run that cannot be read is a problem, not an error."""
    try:
        found.tables[path] = read_table(path / "compare.json")
    except FileNotFoundError:
        found.problems.append(f"{path}: no compare.json yet; 'combo compare' writes it when its runs are done")
    except BadInput as error:
        found.problems.append(str(error))
    rows = found.tables[path]["rows"] if path in found.tables else []
    names = {Variant(row["variant"], "", "", ()).folder: row["variant"] for row in rows}
    places = {name: place for place, name in enumerate(names)}

    def rank(folder: Path) -> tuple[int, str, int]:
        variant, number = folder.parent.name, folder.name.removeprefix("seed-")
        return places.get(variant, len(names)), variant, int(number) if number.isdecimal() else 0

    for run in sorted(path.glob("*/seed-*/"), key=rank):
        try:
            found.runs.append(read_target(run, found.problems, names.get(run.parent.name)))
        except BadInput as error:
            found.problems.append(str(error))


def read_target(folder: Path, problems: list[str], variant: str | None = None) -> Run:
    """variant: the name to use instead of the folder's.

    Raises `BadInput` when config or run.json cannot be read; what else is missing is added to `problems`.
    """
    config, info = read_run(folder)
    log = read_run_log(folder)
    if not log:
        problems.append(f"{folder}: no log yet, so there are no curves")
    try:
        best = read_best(folder)
    except BadInput as error:
        problems.append(str(error))
        best = None
    return Run(folder, variant or _home(folder).name, config.train.seed, config, info, log, best)


def _home(run: Path) -> Path:
    """The folder that all seeds of a variant share, or the run's own."""
    return run.parent if re.fullmatch(r"seed-\d+", run.name) else run


def _separate_names(found: Targets) -> None:
    """Give variants that lie in different folders under the same name the full paths as names."""
    parents: dict[str, set[Path]] = {}
    for run in found.runs:
        parents.setdefault(run.variant, set()).add(_home(run.folder))
    found.runs = [replace(r, variant=str(r.folder)) if len(parents[r.variant]) > 1 else r for r in found.runs]
