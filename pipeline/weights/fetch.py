"""The weight files of others: list, download and verify them.

Environment variables: `COMBO_WEIGHTS`, the folder; `COMBO_WEIGHTS_MIRROR`, an address under which all files lie by
their names, used instead of the published ones; `COMBO_OFFLINE=1`: download nothing, say what to bring by hand.
"""

import os
import shutil
from pathlib import Path
from typing import Any

from ...errors import BadInput, did_you_mean
from ...files import file_sha256
from ...model.weights.registry import WEIGHT_FILES, WeightFile, weights_folder
from .download import download


def list_weights() -> list[dict[str, Any]]:
    """One row per known file: the fields of `WeightFile`, its `path`, and whether it is `present`. Reads no file."""
    return [vars(file) | {"path": str(_path(file)), "present": _path(file).is_file()} for file in WEIGHT_FILES.values()]


def show_list(rows: list[dict[str, Any]]) -> str:
    """The rows of `list_weights` as text."""
    lines = [f"{weights_folder()}: {sum(row['present'] for row in rows)} of {len(rows)} files, marked with *", ""]
    for row in rows:
        mark = "*" if row["present"] else " "
        digits = f"sha256 {row['sha256'][:8]}" if row["sha256"] else "no hash published"
        lines.append(
            f"{mark} {row['name']:<20}{row['megabytes']:>5} MB  {digits:<18} {row['licence']:<13} {row['use']}"
        )
        lines.append(f"  {row['url']}")
    return "\n".join(lines)


def fetch_weights(names: list[str]) -> list[str]:
    """Download files by name, or all of them for ["all"]; returns one line per file that says where it is.

    A file that is there and that `verify_weights` has nothing against stays; another one is replaced.
    Raises `BadInput` before anything is downloaded (unknown name, offline, disk too small), and otherwise what
    `download` raises: files that are complete stay, and the same call fetches the others.
    """
    if not names:
        raise BadInput(f"name the weights to fetch, or say all; known: {', '.join(WEIGHT_FILES)}")
    files = _named(names)
    wanted = [file for file in files if _check(file)["state"] in ("missing", "damaged")]
    _refuse_if_offline(wanted)
    addresses = {file: _address(file) for file in wanted}
    weights_folder().mkdir(parents=True, exist_ok=True)
    _check_space(wanted)
    for file, url in addresses.items():
        download(
            url, _path(file), file.size, lambda path, file=file: _problem(file, path.stat().st_size, file_sha256(path))
        )
        if file.sha256 is None:
            _note(file).write_text(f"{file_sha256(_path(file))}  {file.file_name}\n")
    return [f"{file.name}: {_path(file)}{'' if file in wanted else ', was there already'}" for file in files]


def verify_weights(names: list[str]) -> list[dict[str, Any]]:
    """Read files and compare them with what is published about them; without names, all that are there.

    Returns rows with `name`, `path`, `sha256` (None if missing), `state`, and `problem`, a sentence or empty. States:
    ok; missing; damaged, size or hash are others; unpublished, no hash is published, but nothing speaks against it: it
    is as it was when it was fetched, or was brought by hand.
    """
    files = _named(names) if names else [file for file in WEIGHT_FILES.values() if _path(file).is_file()]
    return [_check(file) for file in files]


def show_checks(rows: list[dict[str, Any]]) -> str:
    """The rows of `verify_weights` as text."""
    if not rows:
        return f"no known weights in {weights_folder()}; see 'combo weights list'"
    return "\n".join(f"{r['name']}: {r['state']}: {r['problem'] or 'sha256 ' + r['sha256']}" for r in rows)


def _named(names: list[str]) -> list[WeightFile]:
    if names == ["all"]:
        return list(WEIGHT_FILES.values())
    for name in names:
        if name not in WEIGHT_FILES:
            meant = did_you_mean(name, WEIGHT_FILES)
            raise BadInput(f"no weights are called {name!r}{meant}\nKnown: {', '.join(WEIGHT_FILES)}")
    return [WEIGHT_FILES[name] for name in dict.fromkeys(names)]


def _path(file: WeightFile) -> Path:
    return weights_folder() / file.file_name


def _note(file: WeightFile) -> Path:
    """The hash at the time of download, in the form of sha256sum: all there is for files without a published one."""
    return _path(file).with_name(file.file_name + ".sha256")


def _check(file: WeightFile) -> dict[str, Any]:
    path = _path(file)
    row = {"name": file.name, "path": str(path), "sha256": None, "state": "missing", "problem": ""}
    if not path.is_file():
        return row | {"problem": f"{path} is not there; run 'combo weights fetch {file.name}'"}
    row["sha256"] = file_sha256(path)
    if problem := _problem(file, path.stat().st_size, row["sha256"]) or _changed(file, row["sha256"]):
        return row | {"state": "damaged", "problem": f"{path}: {problem}; run 'combo weights fetch {file.name}'"}
    return row | {"state": "unpublished" if file.sha256 is None else "ok"}


def _problem(file: WeightFile, size: int, sha256: str) -> str:
    """How a file of this size and hash differs from the published one, or an empty string."""
    if file.size is not None and size != file.size:
        return f"it has {size:,} bytes instead of {file.size:,}"
    if file.sha256 is not None and not sha256.startswith(file.sha256):
        return f"its sha256 is {sha256[:12]}, the published one {file.sha256[:12]}"
    return ""


def _changed(file: WeightFile, sha256: str) -> str:
    if file.sha256 is not None or not _note(file).is_file():
        return ""
    noted = _note(file).read_text()[:64]
    return "" if sha256 == noted else f"its sha256 is {sha256[:12]}, when it was fetched it was {noted[:12]}"


def _address(file: WeightFile) -> str:
    mirror = os.environ.get("COMBO_WEIGHTS_MIRROR")
    if not mirror:
        return file.url
    if not mirror.startswith(("http://", "https://")):
        raise BadInput(f"COMBO_WEIGHTS_MIRROR={mirror} does not begin with http:// or https://")
    return f"{mirror.rstrip('/')}/{file.file_name}"


def _refuse_if_offline(files: list[WeightFile]) -> None:
    if not files or os.environ.get("COMBO_OFFLINE", "0") in ("", "0"):
        return
    by_hand = [f"{file.url} ({file.megabytes} MB) as {_path(file)}" for file in files]
    raise BadInput.listing("COMBO_OFFLINE is set, so nothing is downloaded. Bring by hand:", by_hand)


def _check_space(files: list[WeightFile]) -> None:
    parts = [_path(file).with_name(file.file_name + ".part") for file in files]
    here = sum(part.stat().st_size for part in parts if part.exists())
    needed = sum(file.size or file.megabytes * 1_000_000 for file in files) - here
    free = shutil.disk_usage(weights_folder()).free
    if needed > free:
        raise BadInput(
            f"{weights_folder()} has room for {free // 1_000_000:,} MB, {needed // 1_000_000:,} MB are needed: make "
            "room, or name another folder in COMBO_WEIGHTS"
        )
