"""The published numbers from the published files: import, convert, evaluate, compare with the paper."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import save

from ...data.store.checksummed_json import digest
from ...data.store.root import open_cache
from ...data.store.store import Cache, ClipStore
from ...files import write_atomic
from ..common.devices import pick_device
from ..config.precompute import PrecomputeConfig
from ..config.tree import load_config
from ..evaluate.protocols import PUBLISHED
from ..evaluate.run import evaluate_run
from ..imports.clips import import_clips
from ..imports.maskiges import import_maskiges
from ..precompute.driver import plan_caches, run_plans
from ..precompute.selection import Selection
from ..runs.data import RunData
from ..runs.folder import create_converted_run
from .inputs import PublishedCheckpoint, Request, check_inputs, notes, obstacles
from .outcome import Reproduction
from .paper import Numbers


def reproduce(request: Request, device: str = "auto") -> Reproduction:
    """Score published weights on the test split as published, and compare with the paper.

    Raises `BadInput` listing everything that is missing or unfit, before anything is written; `ComboError` when a
    step fails, to be run again.
    """
    pick_device(device)
    inputs = check_inputs(request)
    root, checkpoint = request.root, inputs.checkpoint
    clips = import_clips(inputs.source, root).store
    if inputs.maskiges is not None:
        proposals = import_maskiges(root, inputs.maskiges).cache
    else:
        proposals = open_cache(clips, "proposals", request.proposals)
    features = _encode_sound(root, request.vggish or _own_vggish(root, checkpoint), device)
    run = _convert(checkpoint, root, f"{request.subset}-{request.backbone}", RunData(clips, proposals, features))
    scores = evaluate_run(run, "test", device=device)[PUBLISHED]
    return Reproduction(
        subset=request.subset,
        backbone=request.backbone,
        fusion=checkpoint.config.fusion,
        ours=Numbers(scores.M_J, scores.M_F),
        protocol=scores.protocol,
        scored_clips=len(clips.usable_rows("test")),
        checkpoint=f"{checkpoint.path.name} (sha256 {checkpoint.sha256[:12]})",
        proposals=proposals.name,
        run=run,
        obstacles=(*obstacles(inputs, proposals.provenance.name), *_left_out(clips, proposals)),
        notes=tuple(notes(inputs)),
    )


def _own_vggish(root: Path, checkpoint: PublishedCheckpoint) -> Path:
    """The VGGish of the checkpoint as a file of its own; equal checkpoints yield equal bytes."""
    path = root / "weights" / f"vggish-{checkpoint.sha256[:12]}.safetensors"
    if not path.exists():
        write_atomic(path, save({key: tensor.clone().contiguous() for key, tensor in checkpoint.vggish.items()}))
    return path


def _encode_sound(root: Path, vggish: Path, device: str) -> Cache:
    """The VGGish features of the test split."""
    config = PrecomputeConfig(device=device, encoder={"weights": str(vggish)})
    plans = plan_caches(root, config, None, "vggish", Selection(split="test"))
    run_plans(plans, workers=0, scheduler=None)
    return Cache(plans[0].path)


def _convert(checkpoint: PublishedCheckpoint, root: Path, name: str, data: RunData) -> Path:
    """A run folder with the checkpoint's weights, named by all that changes its scores."""
    config = load_config(name, []).model_copy(update={"model": checkpoint.config})
    info = replace(data.info(), converted_from=checkpoint.sha256)
    settings = config.model_dump(mode="json")
    if config.model.mask_dim is None:  # named as before there was this setting
        del settings["model"]["mask_dim"]
    identity = [settings, {**info.to_json(), "root": None}]
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
