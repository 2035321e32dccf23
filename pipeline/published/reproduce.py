"""The published numbers from the published files: import, convert, evaluate, compare with the paper."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from safetensors.torch import save

from ...data.store.checksummed_json import digest
from ...data.store.root import open_cache
from ...data.store.store import Cache, ClipStore
from ...files import write_atomic
from ..common.devices import pick_device
from ..config.precompute import PrecomputeConfig
from ..config.tree import load_config
from ..evaluate.protocols import PUBLISHED
from ..evaluate.scores import evaluate_run
from ..imports.clips import import_clips
from ..imports.maskiges import NAME as OFFICIAL
from ..imports.maskiges import import_maskiges
from ..precompute.driver import plan_caches, run_plans
from ..runs.data import RunData
from ..runs.folder import create_converted_run
from .inputs import PublishedCheckpoint, check_inputs, notes, obstacles
from .numbers import Numbers
from .reproduction import Reproduction


def reproduce(
    subset: str,
    backbone: str,
    source: Path,
    checkpoint: Path,
    maskiges: Path | None,
    vggish: Path | None,
    root: Path,
    device: str = "auto",
    proposals: str = OFFICIAL,
    fusion: Literal["none", "bilateral"] | None = None,
) -> Reproduction:
    """Score published weights on the test split as published, and compare with the paper.

    subset: s4, ms3 or avss. backbone: r50 or pvt. source: AVSBench, see `AvsBenchSource`. checkpoint: the published
    file. maskiges: the folder with the released Maskiges; None: they are in `source`, or the proposals cache of
    that name is in `root` already. proposals: another cache of `root` to use instead of the released Maskiges.
    vggish: VGGish weights; None: those that the checkpoint carries. root: the cache root to work in; what is
    finished there is used again. fusion: evaluate with this one; None: the one that the checkpoint has weights for.

    Raises `BadInput` listing everything that is missing or unfit, before anything is written; `ComboError` when a
    step fails, to be run again.
    """
    pick_device(device)
    inputs = check_inputs(subset, backbone, source, checkpoint, maskiges, vggish, root, proposals, fusion)
    clips = import_clips(inputs.source, root).store
    if inputs.maskiges is not None:
        found = import_maskiges(root, inputs.maskiges).cache
    else:
        found = open_cache(clips, "proposals", proposals)
    features = _listen(root, vggish or _own_vggish(root, inputs.checkpoint), device)
    run = _convert(inputs.checkpoint, root, f"{subset}-{backbone}", RunData(clips, found, features))
    scores = evaluate_run(run, "test", device=device)[PUBLISHED]
    return Reproduction(
        subset=subset,
        backbone=backbone,
        fusion=inputs.checkpoint.config.fusion,
        ours=Numbers(scores.M_J, scores.M_F),
        protocol=scores.protocol,
        scored_clips=len(clips.usable_rows("test")),
        checkpoint=f"{checkpoint.name} (sha256 {inputs.checkpoint.sha256[:12]})",
        proposals=found.name,
        run=run,
        obstacles=(*obstacles(inputs, subset, backbone, found.provenance.name), *_left_out(clips, found)),
        notes=tuple(notes(inputs, subset, backbone)),
    )


def _own_vggish(root: Path, checkpoint: PublishedCheckpoint) -> Path:
    """The VGGish that the checkpoint carries, as a file of its own; equal checkpoints give equal bytes."""
    path = root / "weights" / f"vggish-{checkpoint.sha256[:12]}.safetensors"
    if not path.exists():
        write_atomic(path, save({key: tensor.clone().contiguous() for key, tensor in checkpoint.vggish.items()}))
    return path


def _listen(root: Path, vggish: Path, device: str) -> Cache:
    """The VGGish features of the test split."""
    config = PrecomputeConfig(device=device, encoder={"weights": str(vggish)})
    plans = plan_caches(root, config, None, "vggish", "test")
    run_plans(plans, workers=0, scheduler=None)
    return Cache(plans[0].path)


def _convert(checkpoint: PublishedCheckpoint, root: Path, name: str, data: RunData) -> Path:
    """A run folder with the checkpoint's weights, named by all that changes its scores."""
    config = load_config(name, []).model_copy(update={"model": checkpoint.config})
    info = replace(data.info(), converted_from=checkpoint.sha256)
    identity = [config.model_dump(mode="json"), {**info.to_json(), "root": None}]
    folder = root / "runs" / f"{name}-{config.model.fusion}-{digest(identity)[:12]}"
    create_converted_run(folder, config, info, checkpoint.network)
    return folder


def _left_out(clips: ClipStore, proposals: Cache) -> list[str]:
    """Test clips that could not be read."""
    bad = {**proposals.quarantined(), **clips.quarantined()}
    test = {clips.table[int(row)].id for row in clips.table.rows("test")}
    return [
        f"clip {clip} could not be read: {why.splitlines()[-1]}" for clip, why in sorted(bad.items()) if clip in test
    ]
