"""Train and evaluate one recipe over a list of caches or settings and several seeds, and tabulate the scores.

With several cache roots, each has a comparison of its own in OUT/<root>.

OUT/<variant>/seed-<n>/                      a run folder like any other, which keeps its own results
OUT/compare.json  compare.txt  compare.md    the table
"""

import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from ...data.dataset import ClipDataset
from ...data.store.store import ClipStore
from ...errors import BadInput, ComboError, Interrupted
from ...files import write_atomic
from ..common.choices import Sound
from ..common.distributed import Ranks
from ..common.percent import SCORES
from ..common.places import check_no_data
from ..common.progress import bar
from ..config.tree import Config, check_read, load_config
from ..evaluate.protocols import PUBLISHED, find_protocol, full_name
from ..evaluate.results import Result, find_result
from ..evaluate.run import evaluate_run
from ..evaluate.scores import check_annotated
from ..evaluate.sounds import sound_source
from ..runs.checkpoints import newest_step
from ..runs.data import DataNames, open_data
from ..runs.folder import changed_settings, check_run, read_run
from ..runs.open import choose_weights
from ..train.loop import prepare, train
from .comparable import DataFacts, Scoring, data_facts, describe
from .table import Row, Table, has_all_scores_of
from .variants import Variant

WITHOUT_EFFECT = ("train.device", "train.checkpoint_every")  # on the scores


@dataclass(frozen=True)
class Comparison:
    """A recipe over variants and seeds, and what each run is scored on.

    overrides: `section.key=value`, for all variants; the width of the audio features follows from each cache.
    device: auto leaves train.device as it is.
    """

    root: Path | str
    preset: str
    variants: Sequence[Variant]
    seeds: Sequence[int]
    overrides: Sequence[str] = ()
    device: str = "auto"
    split: str = "test"
    sounds: Sequence[Sound] = ("right",)
    protocol: str = PUBLISHED


@dataclass(frozen=True)
class Cell:
    """One variant with one seed. scored: the clips to score it on. facts: of its data."""

    variant: Variant
    seed: int
    config: Config
    folder: Path
    scored: ClipDataset
    facts: DataFacts

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"


def folders_of(roots: Sequence[Path | str], presets: Sequence[str], out: Path) -> dict[Path, tuple[Path | str, str]]:
    """Where each root is compared, with its preset: `out` itself for one root, a folder with its name for several.

    presets: one for all roots, or one for each. Raises `BadInput` when they do not fit together.
    """
    if len(presets) not in (1, len(roots)):
        raise BadInput(f"{len(presets)} presets for {len(roots)} roots; give one --preset for all, or one for each")
    names = [str(root).rstrip("/").rsplit("/", 1)[-1] for root in roots]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise BadInput(f"two roots are called {twice[0]!r}, and so would be their folders in {out}; rename one")
    presets = presets if len(presets) > 1 else list(presets) * len(roots)
    folders = [out / name for name in names] if len(roots) > 1 else [out]
    return dict(zip(folders, zip(roots, presets, strict=True), strict=True))


def compare_all(comparisons: Mapping[Path, Comparison]) -> dict[Path, Table]:
    """`compare` in each folder, once all of them can start. Raises as `compare`."""
    problems = []
    for out, comparison in comparisons.items():
        try:
            plan_cells(comparison, out)
        except BadInput as error:
            problems.append(f"{out.name}: {error}")
    if len(comparisons) > 1 and problems:
        raise BadInput.listing("nothing was started:", problems)
    return {out: compare(comparison, out) for out, comparison in comparisons.items()}


def compare(comparison: Comparison, out: Path) -> Table:
    """Train and score what is missing of every variant with every seed, and write the table to `out`.

    A run that breaks is listed in the table, and the others continue. If nothing was missing, a table with more scores
    is not replaced.
    Raises `BadInput`, before the first run starts, that lists everything that does not fit, and `Interrupted` when
    stopped: the same call resumes.
    """
    cells = plan_cells(comparison, out)
    due = [cell for cell in cells if missing_sounds(cell, comparison)]
    table = make_table(comparison, cells, run_cells(comparison, due))
    if due or has_all_scores_of(table, out / "compare.json"):
        write_atomic(out / "compare.json", json.dumps(table.to_json(), indent=1) + "\n")
        write_atomic(out / "compare.txt", f"{table}\n")
        write_atomic(out / "compare.md", table.markdown())
    return table


def tabulate(comparison: Comparison, out: Path) -> Table:
    """The table of the scores that exist. Nothing is trained or written. Raises `BadInput` as `compare`."""
    return make_table(comparison, plan_cells(comparison, out), failed={})


def plan_cells(comparison: Comparison, out: Path) -> list[Cell]:
    """All cells, seed by seed, so that one seed's table is complete first. Nothing is written.

    Raises `BadInput` that lists what does not fit, by variant.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise BadInput(
            "compare runs in one process, without torchrun; for several devices start it several times with the same "
            "--out, each with its own --seeds, and once more with all of them for the table"
        )
    check_no_data(out)
    check_read("compare", list(comparison.overrides), {"train.seed": "every variant is trained with all of --seeds"})
    find_protocol(comparison.protocol, len(ClipStore(comparison.root).classes))
    cells, problems = [], []
    for variant in comparison.variants:
        try:
            cells += _plan_variant(comparison, variant, out)
        except BadInput as error:
            problems.append(f"{variant.name}: {error}")
    if problems:
        raise BadInput.listing("nothing was started:", problems)
    return sorted(cells, key=lambda cell: comparison.seeds.index(cell.seed))


def _plan_variant(comparison: Comparison, variant: Variant, out: Path) -> list[Cell]:
    """The cells of one variant, after checks of everything that its training and evaluation need."""
    names = DataNames(comparison.root, variant.proposals, variant.audio)
    data = open_data(names)
    device = [] if comparison.device == "auto" else [f"train.device={comparison.device}"]
    settings = [f"model.audio_dim={data.audio.dim}", *comparison.overrides, *device, *variant.overrides]
    configs = {
        seed: load_config(comparison.preset, [*settings, f"train.seed={seed}"], "compare") for seed in comparison.seeds
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training says it again
        info = prepare(names, configs[comparison.seeds[0]], out, Ranks(), Event()).info
    scored = data.dataset(comparison.split)
    check_annotated(scored)
    for sound in comparison.sounds:
        sound_source(scored, sound)
    cells, facts = [], data_facts(data, comparison.split)
    for seed, config in configs.items():
        folder = out / variant.folder / f"seed-{seed}"
        check_run(folder, config, info, allow=may_differ(folder, config))
        check_unchanged(folder, config)
        cells.append(Cell(variant, seed, config, folder, scored, facts))
    return cells


def may_differ(folder: Path, config: Config) -> tuple[str, ...]:
    """What may differ from the original run: the usable clips, where all steps are done."""
    return ("left-out",) if newest_step(folder) >= config.train.steps else ()


def check_unchanged(folder: Path, config: Config) -> None:
    """Raise `BadInput` when a finished run was trained with settings that would give it other scores."""
    if (step := newest_step(folder)) < config.train.steps:
        return
    changed = changed_settings(read_run(folder)[0], config)
    if differing := [text for key, text in changed.items() if key not in WITHOUT_EFFECT]:
        advice = "take the old values, more steps, or another --out"
        raise BadInput.listing(f"{folder} is already at step {step}:", differing, advice)


def run_cells(comparison: Comparison, cells: list[Cell]) -> dict[str, str]:
    """Train and score cells. Returns the names of those that broke, with the reason."""
    failed = {}
    with bar(len(cells), "compare", "runs") as progress:
        for cell in cells:
            try:
                run_cell(comparison, cell)
            except Interrupted as stop:
                again = "what is finished is kept, run the same command again to continue"
                raise Interrupted(f"{cell.name}: stopped; {again}") from stop
            except BadInput:
                raise
            except ComboError as error:
                failed[cell.name] = str(error)
            progress.update()
    return failed


def run_cell(comparison: Comparison, cell: Cell) -> None:
    """Train and score what is missing of one cell."""
    names = DataNames(comparison.root, cell.variant.proposals, cell.variant.audio)
    train(names, cell.config, cell.folder, resume=True, allow=may_differ(cell.folder, cell.config))
    split, protocol = comparison.split, comparison.protocol
    for sound in missing_sounds(cell, comparison):
        evaluate_run(cell.folder, split, sound, cell.config.train.device, [protocol])


def missing_sounds(cell: Cell, comparison: Comparison) -> list[Sound]:
    """The sounds that a cell is still to be scored with."""
    return [sound for sound in comparison.sounds if kept_result(cell, comparison, sound) is None]


def kept_result(cell: Cell, comparison: Comparison, sound: Sound) -> Result | None:
    """The result of a finished cell; None when there is none, or one of other weights or data."""
    if newest_step(cell.folder) < cell.config.train.steps:
        return None
    return find_result(choose_weights(cell.folder, cell.config), cell.scored, sound, comparison.protocol)


def make_table(comparison: Comparison, cells: list[Cell], failed: dict[str, str]) -> Table:
    """The table of all scores that exist."""
    clips, c = ClipStore(comparison.root), comparison
    protocol = full_name(c.protocol, find_protocol(c.protocol, len(clips.classes)))
    rows = tuple(_row(variant, sound, cells, c) for sound in c.sounds for variant in c.variants)
    scored = [cell for cell in cells if any(cell.seed in r.M_J for r in rows if r.variant == cell.variant.name)]
    scoring = Scoring(c.split, "right", c.protocol)  # each sound has a table of its own
    subjects = tuple(describe(cell.variant.name, cell.folder, cell.config, scoring, cell.facts) for cell in scored)
    return Table(clips.dataset, c.preset, tuple(c.overrides), c.split, protocol, tuple(c.seeds), rows, failed, subjects)


def _row(variant: Variant, sound: Sound, cells: list[Cell], comparison: Comparison) -> Row:
    found = {cell.seed: kept_result(cell, comparison, sound) for cell in cells if cell.variant == variant}
    scores = ({seed: getattr(one, name) for seed, one in found.items() if one is not None} for name in SCORES)
    return Row(variant.name, sound, *scores)
