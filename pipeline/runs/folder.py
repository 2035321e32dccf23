"""A run folder: what was trained on what, its log, and its checkpoints.

RUN/config.yaml                    the whole config
RUN/run.json                       data set, classes, caches and their fingerprints, clips that were left out
RUN/log.jsonl                      one line per step, one per evaluation
RUN/tensorboard/  RUN/pictures/    the same as curves; truth and prediction on some clips of val
RUN/checkpoints/step-00001000/     see `checkpoints`; the two newest
RUN/best/                          model.safetensors and metrics.json of the best evaluation
RUN/results/                       one JSON for each evaluation, see `evaluate.results`
RUN/broken/step-00001234/          what is needed to replay a step whose loss was not finite
"""

import json
import os
import shutil
import socket
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from ...data.store.location import Location
from ...errors import BadInput
from ...files import lock, write_atomic
from ...model.weights.network_file import network_metadata, read_metrics
from ..common.percent import in_percent
from ..config.tree import Config, parse_config, show_config
from .checkpoints import checkpoints, separate
from .data import RunInfo, check_same_data

# Settings that may differ on resume. Except steps, which the learning rate depends on, none changes what is learned.
MAY_CHANGE = (
    "train.steps",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.device",
    "train.micro_batch_clips",
    "train.checkpointing",
)


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run folder for training, and remove what killed saves left in it.

    Raises `BadInput` when a live process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "_lock").open("a+") as file:
        _try_lock(file, folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        for left in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield


def check_free(folder: Path) -> None:
    """Raise `BadInput` when a live process trains in a run folder. Nothing is written."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError), (folder / "_lock").open("r+") as file:
        _try_lock(file, folder)


def _try_lock(file: IO[str], folder: Path) -> None:
    try:
        lock(file, folder, wait=False)
    except BlockingIOError:
        file.seek(0)
        raise BadInput(
            f"{folder} is in use: {file.read().strip()} trains in it; wait for it, stop it, or name another folder"
        ) from None


def check_run(folder: Path, config: Config, info: RunInfo, *, resume: bool = True, allow: Collection[str] = ()) -> None:
    """Raise `BadInput` when a run can neither begin in a folder nor, with `resume`, continue there. Nothing is written.

    allow: keys of `data.ALLOWED` that may differ from the original run.
    """
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"{folder} is a file; name a folder for the run")
    if not (folder / "run.json").exists():
        return
    if not resume:
        steps = f" ({checkpoints(folder)[-1].name})" if checkpoints(folder) else ""
        raise BadInput(f"{folder} already holds a run{steps}; continue it with --resume auto, or name another folder")
    old_config, old_info = read_run(folder)
    check_same_data(folder, old_info, info, allow)
    if changed := [text for key, text in changed_settings(old_config, config).items() if key not in MAY_CHANGE]:
        advice = f"Only {', '.join(MAY_CHANGE)} may change; take the old values, or name another folder"
        raise BadInput.listing(f"{folder} cannot be resumed with other settings:", changed, advice)


def changed_settings(old: Config, new: Config) -> dict[str, str]:
    """The settings that differ, by full name, each with its old and new value in words."""
    was, now = old.model_dump(), new.model_dump()
    keys = [(s, k) for s in now for k in now[s] if now[s][k] != was[s][k]]
    return {f"{s}.{k}": f"{s}.{k} was {was[s][k]!r}, is {now[s][k]!r}" for s, k in keys}


def write_run(folder: Path, config: Config, info: RunInfo) -> None:
    """Write the config and info of a run that begins or trains on; what says the same already stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps(info.seen_from(folder).to_json(), indent=1) + "\n"
    for name, text in (("config.yaml", show_config(config)), ("run.json", about)):
        if not (folder / name).exists() or (folder / name).read_text() != text:
            write_atomic(folder / name, text)


def record_run(folder: Path, config: Config, info: RunInfo) -> None:
    """`write_run`, with a warning when the run did not say before which clips it left out."""
    if (folder / "run.json").exists() and read_run(folder)[1].left_out is None:
        warnings.warn(
            f"{folder}: an older version, which did not write down the clips that were left out, began this run; from "
            f"here on it leaves out {len(info.left_out or ())}, and run.json says which",
            stacklevel=2,
        )
    write_run(folder, config, info)


def create_converted_run(folder: Path, config: Config, info: RunInfo, weights: Mapping[str, Tensor]) -> None:
    """Create a run from weights of another origin: it can be evaluated and predict, but not be resumed.

    weights: as in `COMBO.state_dict()`. Existing files of the same run are kept.
    """
    check_run(folder, config, info)
    if not (folder / "run.json").exists():
        write_run(folder, config, info)
    if not (folder / "best" / "metrics.json").exists():
        write_best(folder, weights, network_metadata(config.model, len(info.classes), {"step": 0}))


def read_run(folder: Path, root: str | Location | None = None) -> tuple[Config, RunInfo]:
    """Read config and info. Raises `BadInput` when there is no run, or one that is damaged or of another version.

    root: where clips and caches are now; None: where run.json says.
    """
    path = folder / "config.yaml"
    try:
        config = parse_config(yaml.safe_load(path.read_text()))
        path = folder / "run.json"
        info = RunInfo.of_json(json.loads(path.read_text())).found_from(folder)
    except OSError as error:
        raise BadInput(f"{folder}: not a run folder ({error}); 'combo train ... --out {folder}' makes one") from error
    except (ValueError, yaml.YAMLError, BadInput) as error:
        raise BadInput(f"{path} cannot be used: {error}; restore it, or train into another folder") from error
    return config, info if root is None else info.moved(root)


def append_run_log(folder: Path, lines: list[dict[str, Any]]) -> None:
    """Append entries, each on a line of its own even after one that a kill has cut."""
    with (folder / "log.jsonl").open("ab+") as file:
        if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            file.write(b"\n")
        file.writelines(json.dumps(line).encode() + b"\n" for line in lines)


def read_run_log(folder: Path) -> list[dict[str, Any]]:
    """All complete lines of the log; steps repeated after a kill appear once, as last done."""
    if not (folder / "log.jsonl").exists():
        return []
    last: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut by a kill
        last[(entry["step"], "M_J" not in entry)] = in_percent(entry)
    return [last[key] for key in sorted(last)]


def write_best(folder: Path, weights: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace RUN/best. metadata: of `network_metadata`, with metrics; in the weight file no kill can part them."""
    write_atomic(folder / "best" / "model.safetensors", save(separate(weights), metadata=metadata))
    rewrite_metrics(folder)


def read_best(folder: Path) -> dict[str, Any] | None:
    """The metrics of the best weights in percent, None when there are none. They stand in the weight file itself."""
    path = folder / "best" / "model.safetensors"
    if not path.exists():
        return None
    try:
        return in_percent(read_metrics(path))
    except (SafetensorError, KeyError, ValueError) as error:
        raise BadInput(f"{path} is damaged ({error}); remove {path.parent} to use the newest checkpoint") from error


def rewrite_metrics(folder: Path) -> None:
    """Rewrite RUN/best/metrics.json from the weights, in case a kill came between the two."""
    if (metrics := read_best(folder)) is not None:
        write_atomic(folder / "best" / "metrics.json", json.dumps(metrics, indent=1) + "\n")
