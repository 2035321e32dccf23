"""Checkpoints: written atomically, and verified before they are used.

A checkpoint is a folder of safetensors (model, ema), state.pt (optimiser, loss scaler, generators) and manifest.json:
what it was trained on, size and sha256 of every other file, and its own hash. It is written under a temporary name,
synced and renamed, so a kill at any instant leaves the previous one.
"""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...data.store.checksummed_json import digest
from ...files import file_sha256, publish, sync


@dataclass(frozen=True)
class Checkpoint:
    """tensors: file stem -> name -> tensor, on the CPU. state: what `torch.load` reads. about: JSON.

    metadata: of the safetensors files; written, not read.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: dict[str, Any]
    about: dict[str, Any]
    metadata: dict[str, str] | None = None


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder in one rename. One process at a time may write into the same parent."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for stem, tensors in checkpoint.tensors.items():
        save_file(separate(tensors), temporary / f"{stem}.safetensors", metadata=checkpoint.metadata)
    torch.save(checkpoint.state, temporary / "state.pt")
    files = {file.name: (sync(file), file_sha256(file)) for file in sorted(temporary.iterdir())}
    body = {**checkpoint.about, "files": files}
    manifest = temporary / "manifest.json"
    manifest.write_text(json.dumps({"sha256": digest(body), **body}, indent=1) + "\n")
    sync(manifest)
    sync(temporary)
    shutil.rmtree(path, ignore_errors=True)
    publish(temporary, path)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises ValueError where it is missing or damaged."""
    try:
        about = json.loads((path / "manifest.json").read_text())
        expected = about.pop("sha256")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"manifest.json is missing or damaged ({error})") from error
    if digest(about) != expected or "files" not in about:
        raise ValueError("manifest.json is damaged (its sha256 differs)")
    return about


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, all of it verified by the manifest. Raises ValueError that says what is damaged."""
    about = read_manifest(path)
    for name, (size, sha256) in about["files"].items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise ValueError(f"{name} is missing")
        if file.stat().st_size != size or file_sha256(file) != sha256:
            raise ValueError(f"{name} is damaged (size or sha256 differs)")
    try:
        tensors = {Path(n).stem: load_file(path / n) for n in about["files"] if n.endswith(".safetensors")}
        state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError) as error:  # intact, but not written by this package
        raise ValueError(str(error)) from error
    return Checkpoint(tensors, state, about)


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    return sorted(p for p in (run / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))


def newest_step(run: Path) -> int:
    """The step that the newest checkpoint folder is named after, 0 without any; whether it is valid is not checked."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints(run)), default=0)


def newest_checkpoint(run: Path) -> Path | None:
    """The newest valid checkpoint; damaged ones are passed over with a warning."""
    for path in reversed(checkpoints(run)):
        try:
            read_checkpoint(path)
        except ValueError as error:
            warnings.warn(f"{path}: passed over, {error}", stacklevel=2)
        else:
            return path
    return None


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, as safetensors requires."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
