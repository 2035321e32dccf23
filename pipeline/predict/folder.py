"""The folder of one video's prediction: what lies in it, and what another call may add or replace.

prediction.json says what all the rest is of. Masks of several formats lie side by side as long as they are of the same
video, weights and pictures; nothing else is ever mixed, and nothing is removed unless `--replace` says so.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...files import write_atomic
from .mask_writers import NAMES

OVERLAY, ABOUT = "overlay.mp4", "prediction.json"
SHARED = (OVERLAY, "timeline.csv", "timeline.json")  # the same for all formats of masks
About = Mapping[str, Any]  # of prediction.json


def read_about(folder: Path) -> dict[str, Any] | None:
    """What prediction.json says; None where there is none.

    masks: the size, video or network, of each file or folder of masks. unreadable: of those that lack parts, the reason
    by seconds.
    """
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        if not isinstance(about["masks"], dict):  # of a version that kept one format: its name
            about["masks"] = {NAMES[about["masks"]]: about.pop("mask_size")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return about


def is_done(folder: Path, wanted: About) -> bool:
    """Whether everything that a call wants is there already."""
    there = read_about(folder)
    if there is None or wanted["masks"].keys() & there.get("unreadable", {}).keys():
        return False
    masks = wanted["masks"].items() <= there["masks"].items()
    same = all(there.get(key) == value for key, value in wanted.items() if key != "masks")
    return masks and same and all((folder / name).exists() for name in (*SHARED, *wanted["masks"]))


def check_folders(out: Path, wanted: Mapping[str, About], *, replace: bool) -> None:
    """Raise `BadInput` that lists what calls would have to remove, and predictions of other videos of the same name."""
    there = {name: found for name in wanted if (found := read_about(out / name))}
    foreign = [n for n, old in there.items() if all(old.get(k) != wanted[n][k] for k in ("video", "identity"))]
    if foreign:
        headline = "these folders hold predictions of other videos of the same name:"
        problems = [f"{out / n} is of {there[n].get('video')}, not of {wanted[n]['video']}" for n in foreign]
        raise BadInput.listing(headline, problems, "name another --out")
    if not replace and (lost := [p for n in wanted for p in _lost(out / n, there.get(n), wanted[n])]):
        advice = "name another --out to have both, or --replace to remove them"
        raise BadInput.listing(
            "these masks are of another call, and cannot stay beside those of this one:", lost, advice
        )


def _lost(folder: Path, old: About | None, new: About) -> Iterator[str]:
    for name in _masks_in(folder):
        if old is None or name not in old["masks"]:
            if name not in new["masks"]:  # else a call that was killed left it, and this one repeats it
                yield f"{folder / name}: no {ABOUT} says of what weights"
        elif old.get("identity") != new["identity"]:
            if name not in new["masks"]:
                yield f"{folder / name}: of {old.get('weights')}, as prediction.json says, not of {new['weights']}"
        elif old.get("every_frame") != new["every_frame"]:
            was, now = (f"--every-frame {x['every_frame']}" if x["every_frame"] else "one a second" for x in (old, new))
            yield f"{folder / name}: {was}, not {now}"
        elif (size := new["masks"].get(name)) not in (None, old["masks"][name]):
            yield f"{folder / name}: --mask-size {old['masks'][name]}, not {size}"


def publish(draft: Path, folder: Path, about: About) -> str | None:
    """Move the outputs of a call from `draft` to where users find them. Returns the weights of what they replace.

    Masks of other formats stay if they are of the same video, weights and pictures; other files always do. A kill at
    any time leaves a prediction.json that speaks of nothing but what lies there, or none.
    """
    folder.mkdir(exist_ok=True)
    old, staying = read_about(folder), {}
    if old is not None and all(old.get(key) == about[key] for key in ("identity", "every_frame")):
        staying = {n: size for n, size in old["masks"].items() if n not in about["masks"] and (folder / n).exists()}
    if old is not None and staying:
        _write_about(folder, {**old, "masks": staying})
    else:
        _remove(folder / ABOUT)
    for name in NAMES.values():
        if name not in staying:
            _remove(folder / name)
    for name in (*SHARED, *about["masks"]):
        (draft / name).replace(folder / name)
    unreadable = {n: why for n, why in (old or {}).get("unreadable", {}).items() if n in staying}
    _write_about(
        folder, {**about, "masks": staying | about["masks"], "unreadable": unreadable | about.get("unreadable", {})}
    )
    draft.rmdir()
    return str(old.get("weights")) if old is not None and old.get("identity") != about["identity"] else None


def _write_about(folder: Path, about: About) -> None:
    write_atomic(folder / ABOUT, json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def _masks_in(folder: Path) -> list[str]:
    return [name for name in NAMES.values() if (folder / name).exists()]


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
