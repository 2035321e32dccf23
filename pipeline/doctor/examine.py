"""Examine the machine, then every path by what it is."""

from collections.abc import Iterator
from typing import Any

from ...errors import BadInput
from .findings import Finding, Report
from .machine import machine_facts, machine_findings


def examine(paths: list[str]) -> Report:
    """Examine the machine, and every path: AVSBench, a cache root (folder or URL), a run, the folder of weights.

    A folder that is none of these, for example an empty one, is tested as a place for a cache root. Nothing is changed,
    but for a few small files that the test of a file system writes and removes.
    """
    facts = machine_facts()
    report = Report(facts, findings=list(machine_findings(facts)))
    for path in paths:
        report.paths.append({"path": str(path)})
        report.findings += _path_findings(path, report.paths[-1])
    return report


def _path_findings(name: str, facts: dict[str, Any]) -> Iterator[Finding]:
    # Imported here, because the machine alone is checked without waiting for stores and their readers.
    from ...data.store.location import UrlPath, location
    from ...data.store.metadata import is_begun
    from ...model.weights.registry import weights_folder
    from .dataset import subset_findings, subsets_in
    from .file_system import file_system_findings
    from .stores import root_findings, run_findings, weight_findings

    try:
        path = location(name)
        is_root = is_begun(path / "clips.zarr")
    except (BadInput, OSError) as error:
        yield Finding("D201", name, str(error))
        return
    if isinstance(path, UrlPath):
        facts["is"] = ["cache root"] if is_root else ["place for a cache root"]
        yield from root_findings(path, facts) if is_root else ()
        yield from file_system_findings(path, facts, holds_data=is_root)
        return
    if not path.is_dir():
        yield Finding("D201", name)
        return
    subsets = subsets_in(path)
    is_run = any((path / file).exists() for file in ("run.json", "config.yaml"))
    is_weights = path.resolve() == weights_folder().resolve()
    kinds = {"AVSBench": bool(subsets), "cache root": is_root, "run": is_run, "weights": is_weights}
    facts["is"] = [kind for kind, there in kinds.items() if there] or ["place for a cache root"]
    for subset in subsets:
        yield from subset_findings(path, subset, facts)
    if is_root:
        yield from root_findings(path, facts)
    if is_run:
        yield from run_findings(path, facts)
    if is_weights:
        yield from weight_findings(path, facts)
    if is_root or not any(kinds.values()):
        yield from file_system_findings(path, facts, holds_data=is_root)
    if not any(kinds.values()):
        yield Finding("D208", name)
