"""Examine the machine: versions, devices, memory, disks, optional parts, weight files. Reads no large file."""

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
import torch
from packaging.requirements import Requirement

from ...model.weights.registry import WEIGHT_FILES, weights_folder
from .findings import Finding

PACKAGE = "combo-avs"
KEY_PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "segment-anything", "zarr", "dask", "av")
LITTLE_MEMORY = 4e9  # bytes: a worker with a large proposal generator, or a training process
LITTLE_DISK = 5e9  # bytes: the clips of S4 take about as much
CGROUP = Path("/sys/fs/cgroup")


def machine_facts() -> dict[str, Any]:
    """JSON values; sizes in GB. `machine_findings` judges them."""
    return {
        "versions": {PACKAGE: version(PACKAGE), "python": platform.python_version()}
        | {name: _version(name) for name in KEY_PACKAGES}
        | {"cuda": torch.version.cuda},
        "system": platform.platform(),
        "devices": _devices(),
        "memory_gb": {"free": free_memory() / 1e9, "of": psutil.virtual_memory().total / 1e9},
        "disk_gb": {str(p): free_disk(p) / 1e9 for p in (Path.cwd(), weights_folder(), Path(tempfile.gettempdir()))},
        "parts": {part: not unmet(part) for part in sorted(_extras())},
        "weights": {
            "folder": str(weights_folder()),
            "here": [name for name, file in WEIGHT_FILES.items() if (weights_folder() / file.file_name).is_file()],
        },
    }


def machine_findings(facts: dict[str, Any]) -> Iterator[Finding]:
    if missing := unmet(None):
        yield Finding("D101", "Python packages", items=tuple(missing))
    for part in (name for name, there in facts["parts"].items() if not there):
        yield Finding("D102", "Python packages", part, tuple(unmet(part)))
    yield from _device_findings(facts["devices"])
    if facts["memory_gb"]["free"] < LITTLE_MEMORY / 1e9:
        yield Finding("D106", "memory", f"{facts['memory_gb']['free']:.1f} GB")
    for folder, free in facts["disk_gb"].items():
        if free < LITTLE_DISK / 1e9:
            yield Finding("D107", folder, f"{free:.1f} GB")
    if not facts["weights"]["here"]:
        yield Finding("D110", facts["weights"]["folder"])
    for name in facts["weights"]["here"]:
        path, size = weights_folder() / WEIGHT_FILES[name].file_name, WEIGHT_FILES[name].size
        if size is not None and (found := path.stat().st_size) != size:
            yield Finding("D111", str(path), f"{name} has {found:,} bytes instead of {size:,}")


def unmet(part: str | None) -> list[str]:
    """Requirements of the installed package (part None), or of one of its extras, that are not met."""
    problems = []
    for requirement in map(Requirement, requires(PACKAGE) or []):
        marker = requirement.marker
        wanted = marker is None or marker.evaluate({"extra": part or ""})
        if not wanted or (part is not None and marker is None) or requirement.name == PACKAGE:
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            problem = f"{requirement.name} is {found or 'missing'}"
            problems.append(f"{problem}; required: {requirement.specifier or 'any version'}")
    return problems


def free_memory() -> int:
    """Bytes that this process can still allocate, in the machine or in its container, whichever has less."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:  # no cgroup of version 2
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))


def free_disk(folder: Path) -> int:
    """Free bytes where a folder is, or will be."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _extras() -> set[str]:
    """Extras for users, without those for developers."""
    names = {name for text in requires(PACKAGE) or [] for name in re.findall(r"extra == ['\"]([\w-]+)", text)}
    return names - {"dev", "docs"}


def _devices() -> list[dict[str, Any]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices: list[dict[str, Any]] = [{"device": "cpu", "cores": cores, "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        about = {"name": gpu.name, "memory_gb": gpu.total_memory / 1e9, "bf16": gpu.major >= 8}
        devices.append({"device": f"cuda:{index}", **about})
    return devices


def _device_findings(devices: list[dict[str, Any]]) -> Iterator[Finding]:
    if len(devices) == 1:
        there = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
        yield Finding("D104", "devices", f"torch is built for {built}") if there else Finding("D103", "devices")
    for device in devices[1:]:
        if not device["bf16"]:
            yield Finding("D105", device["device"], device["name"])
