"""Train and evaluate one recipe over a list of caches or settings and several seeds, and tabulate the scores.

OUT/<variant>/seed-<n>/                      a run folder like any other
OUT/<variant>/seed-<n>/scores-*.json         its scores on one split, with one sound, in one protocol
OUT/compare.json  compare.txt  compare.md    the table
"""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ...data.dataset import ClipDataset
from ...data.store.checksummed_json import digest
from ...data.store.root import open_cache
from ...data.store.store import ClipStore
from ...errors import BadInput, ComboError, Interrupted
from ...files import write_atomic
from ..common.choices import Sound
from ..common.distributed import Ranks
from ..common.progress import bar
from ..config.tree import Config, load_config
from ..evaluate.evaluate import evaluate_run, sound_source
from ..evaluate.protocols import find_protocol, full_name
from ..runs.folder import create_run
from ..train.loop import prepare, train
from .table import Row, Table
from .variants import Variant, plan_variants

WITHOUT_EFFECT = {"train": {"device", "checkpoint_every"}}  # on the scores


@dataclass(frozen=True)
class Cell:
    """One variant with one seed. fingerprint: of everything that its scores follow from."""

    variant: Variant
    seed: int
    config: Config
    folder: Path
    fingerprint: str

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"


@dataclass(frozen=True)
class Trial:
    """What each cell is scored on."""

    split: str
    sounds: Sequence[Sound]
    protocol: str


def compare(
    root: Path,
    preset: str,
    overs: list[str],
    seeds: list[int],
    out: Path,
    proposals: str | None = None,
    audio: str | None = None,
    overrides: Sequence[str] = (),
    split: str = "test",
    sounds: Sequence[Sound] = ("right",),
    device: str = "auto",
    protocol: str = "published",
    one_by_one: bool = False,
    train_missing: bool = True,
) -> Table:
    """Train and score every variant with every seed, as far as that is not done yet, and write the table to `out`.

    overs, one_by_one: see `plan_variants`. overrides: `section.key=value`, for all variants; the width of the audio
    features follows from each cache. device: auto leaves train.device as it is.
    train_missing: False only tabulates what is there.
    A run that breaks is noted in the table, and the others go on.
    Raises `BadInput`, before the first run starts, that lists everything that does not fit, and `Interrupted` when
    stopped: the same call goes on.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise BadInput(
            "compare runs in one process, without torchrun; for several devices start it several times with the same "
            "--out, each with its own --seeds, and once more with all of them for the table"
        )
    clips = ClipStore(root)
    trial = Trial(split, sounds, protocol)
    protocol_name = full_name(protocol, find_protocol(protocol, len(clips.classes)))
    shared = [*overrides, *([f"train.device={device}"] if device != "auto" else [])]
    variants = plan_variants(overs, proposals, audio, one_by_one)
    cells = plan_cells(clips, preset, variants, seeds, shared, trial, out)

    failed = run_cells(root, cells, trial) if train_missing else {}
    rows = tuple(_row(variant, sound, cells, trial) for sound in sounds for variant in variants)
    dataset = clips.dataset
    table = Table(dataset, preset, tuple(overrides), split, protocol_name, tuple(seeds), rows, failed)
    write_atomic(out / "compare.json", json.dumps(table.to_json(), indent=1) + "\n")
    write_atomic(out / "compare.txt", f"{table}\n")
    write_atomic(out / "compare.md", table.markdown())
    return table


def plan_cells(
    clips: ClipStore,
    preset: str,
    variants: list[Variant],
    seeds: list[int],
    overrides: list[str],
    trial: Trial,
    out: Path,
) -> list[Cell]:
    """All cells, seed by seed, so that one seed's table is complete first.

    Raises `BadInput` that lists what does not fit, by variant. Nothing is written.
    """
    cells: list[Cell] = []
    problems: list[str] = []
    for variant in variants:
        try:
            cells += _check(clips, preset, variant, seeds, overrides, trial, out)
        except BadInput as error:
            problems.append(f"{variant.name}: {error}")
    if problems:
        raise BadInput.listing("nothing was started:", problems)
    return sorted(cells, key=lambda cell: seeds.index(cell.seed))


def _check(
    clips: ClipStore,
    preset: str,
    variant: Variant,
    seeds: list[int],
    overrides: list[str],
    trial: Trial,
    out: Path,
) -> list[Cell]:
    """The cells of one variant, after a look at all that its training and evaluation will need."""
    root, dim = clips.path.parent, open_cache(clips, "audio", variant.audio).dim
    settings = [f"model.audio_dim={dim}", *overrides, *variant.overrides]
    configs = {seed: load_config(preset, [*settings, f"train.seed={seed}"]) for seed in seeds}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training says it again
        job = prepare(root, configs[seeds[0]], variant.proposals, variant.audio, out, Ranks(), Event())
    scored = ClipDataset(clips, job.dataset.proposals, job.dataset.audio, trial.split)
    if not any(any(scored.clip(i).frame_annotated) for i in range(len(scored))):
        raise BadInput(f"split {trial.split!r} has no annotated frame to score")
    for sound in trial.sounds:
        sound_source(scored, sound)
    cells = []
    for seed, config in configs.items():
        folder = out / variant.folder / f"seed-{seed}"
        if (folder / "run.json").exists():
            create_run(folder, config, job.info, resume=True)  # refuses another run
        chosen = config.model_dump(mode="json", exclude=WITHOUT_EFFECT, exclude_defaults=True)
        fingerprint = digest([chosen, job.info.clips_fingerprint, job.info.proposals, job.info.audio])
        cells.append(Cell(variant, seed, config, folder, fingerprint))
    return cells


def run_cells(root: Path, cells: list[Cell], trial: Trial) -> dict[str, str]:
    """Train and score all cells. Gives the names of those that broke, with the reason."""
    failed: dict[str, str] = {}
    with bar(len(cells), "compare", "runs") as progress:
        for cell in cells:
            try:
                run_cell(root, cell, trial)
            except Interrupted as stop:
                again = "what is finished is kept, run the same command again to go on"
                raise Interrupted(f"{cell.name}: stopped; {again}") from stop
            except BadInput:
                raise
            except ComboError as error:
                failed[cell.name] = str(error)
            progress.update()
    return failed


def run_cell(root: Path, cell: Cell, trial: Trial) -> None:
    """Train and score one cell, as far as that is not done yet."""
    missing = [sound for sound in trial.sounds if read_scores(cell, trial, sound) is None]
    if not missing:
        return
    train(root, cell.config, cell.variant.proposals, cell.variant.audio, cell.folder, resume=True)
    for sound in missing:
        scores = evaluate_run(cell.folder, trial.split, sound, cell.config.train.device, trial.protocol)
        entry = {"cell": cell.fingerprint, "split": trial.split, "sound": sound, **scores.summary()}
        write_atomic(scores_path(cell, trial, sound), json.dumps(entry, indent=1) + "\n")


def read_scores(cell: Cell, trial: Trial, sound: Sound) -> dict[str, Any] | None:
    """The scores of a finished cell; None when there are none, or those of other settings."""
    try:
        entry = json.loads(scores_path(cell, trial, sound).read_text())
    except FileNotFoundError:
        return None
    return entry if entry["cell"] == cell.fingerprint else None


def scores_path(cell: Cell, trial: Trial, sound: Sound) -> Path:
    return cell.folder / f"scores-{trial.split}-{sound}-{trial.protocol}.json"


def _row(variant: Variant, sound: Sound, cells: list[Cell], trial: Trial) -> Row:
    found = {cell.seed: read_scores(cell, trial, sound) for cell in cells if cell.variant == variant}
    done = {seed: entry for seed, entry in found.items() if entry is not None}
    return Row(variant.name, sound, *({seed: e[name] for seed, e in done.items()} for name in ("M_J", "M_F")))
