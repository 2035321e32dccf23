"""Segment the user's own videos: stage one, the network, then overlays and masks."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..data.dataset import ClipDataset
from ..data.schema import SHARD_FRAMES
from ..data.store import Cache, ClipStore, digest
from ..data.video import VideoClips, open_videos
from ..data.video_decoding import inspect, read_sound
from ..data.video_playback import playback
from ..data.video_writer import write_video
from ..errors import BadInput, ComboError
from ..model.combo import COMBO
from ..model.foundation import GENERATORS
from ..model.inference import label_map
from .config import load_config
from .devices import pick_device
from .evaluate import segment
from .import_clips import import_clips
from .pictures import label_colours, overlay_labels
from .precompute.driver import plan_caches, run_plans
from .progress import bar
from .run_folder import RunInfo, load_run_weights, read_run

CLIP_SECONDS = 5  # per window; the network looks at each frame by itself


def predict(
    run: Path,
    videos: list[Path],
    out: Path,
    overrides: list[str],
    device: str = "auto",
    proposals: str | None = None,
) -> list[str]:
    """Segment video files with the best weights of a run. Gives lines that say what was written.

    For each video, named by its file: out/NAME/overlay.mp4 with its sound, and out/NAME/masks/00000.png, ...: one
    per second, of the frame at 15/16 s of it, in the network's size; pixels are 0 or 255, or class indices for
    models of several classes. Stage one runs as it did for the run's training caches, and is kept in out/cache;
    `proposals` names another generator, which runs whose Maskiges were imported need.
    Raises `BadInput` for files that are no videos, and when the generator or encoder is not the run's own.
    """
    config, info = read_run(run)
    where = pick_device(device)
    model = COMBO(config.model, len(info.classes))
    weights = load_run_weights(run, model)
    source = open_videos(videos, CLIP_SECONDS, info.size[0])
    dataset = _stage_one(source, info, out, overrides, device, proposals)
    lines = [f"weights: {weights}"]
    with bar(len(dataset), "predict", "clips") as progress:
        for name, labels in _label_maps(model.to(where).eval(), dataset, where, progress.update).items():
            folder = out / name
            write_masks(folder / "masks", labels, binary=len(info.classes) == 2)
            write_overlay(folder / "overlay.mp4", source.files[name], labels, len(info.classes))
            lines.append(f"{source.files[name]}: {folder / 'overlay.mp4'}, {len(labels)} masks in {folder / 'masks'}")
    if bad := dataset.clips.quarantined():
        problems = "\n".join(f"  - {clip}: {why}" for clip, why in bad.items())
        raise ComboError("\n".join([*lines, "parts of these videos could not be read:", problems]))
    return lines


def _stage_one(
    source: VideoClips, info: RunInfo, out: Path, overrides: list[str], device: str, proposals: str | None
) -> ClipDataset:
    """The videos as clips with proposals and audio features, made as the run's own caches were."""
    makers = [info.audio_maker] if proposals else [info.proposals_maker, info.audio_maker]
    generator = proposals or info.proposals_maker["name"]
    if generator not in GENERATORS:
        raise BadInput(
            f"{generator!r} is no proposal generator (there are {', '.join(GENERATORS)}); for a run on imported "
            "Maskiges name the generator that comes nearest: --proposals NAME"
        )
    asked = load_config(None, overrides).precompute
    config = asked.model_copy(
        update={
            "generator": {**({} if proposals else info.proposals_maker["parameters"]), **asked.generator},
            "encoder": {**info.audio_maker["parameters"], **asked.encoder},
            "device": device,
        }
    )
    root = out / "cache" / digest([source.parameters, generator, config.generator, config.encoder])[:12]
    import_clips(source, root, SHARD_FRAMES)
    plans = plan_caches(root, config, generator, info.audio_maker["name"], split=None)
    for plan, maker in zip(plans[-len(makers) :], makers, strict=True):
        if plan.maker != maker:
            differing = [k for k in maker if maker[k] != plan.maker[k]]
            raise BadInput(
                f"{maker['name']} is not what the run was trained with (different: {', '.join(differing)}); "
                f"trained with {maker}, here {plan.maker}"
            )
    run_plans(plans, workers=0, scheduler=None)
    return ClipDataset(ClipStore(root), *(Cache(p.path) for p in plans), split="test")


def _label_maps(
    model: COMBO, dataset: ClipDataset, device: torch.device, advance: Callable[[], Any]
) -> dict[str, np.ndarray]:
    """uint8 [seconds, H, W] by name, of every video whose clips could be read; `advance` is called after each clip."""
    clips = sorted((dataset.clip(i).source, dataset.clip(i).id, i) for i in range(len(dataset)))
    by_video: dict[str, list[np.ndarray]] = {}
    for name, _, index in clips:
        sample = dataset[index]
        labels = label_map(segment(model, sample, sample.features, device)).to(torch.uint8).cpu().numpy()
        by_video.setdefault(name, []).append(labels[np.array(sample.clip.frame_valid)])
        advance()
    return {name: np.concatenate(parts) for name, parts in by_video.items()}


def write_masks(folder: Path, labels: np.ndarray, binary: bool) -> None:
    """One PNG per second. labels: uint8 [seconds, H, W], class index."""
    folder.mkdir(parents=True, exist_ok=True)
    for second, label in enumerate(labels):
        Image.fromarray(label * 255 if binary else label).save(folder / f"{second:05d}.png")


def write_overlay(path: Path, video: Path, labels: np.ndarray, num_classes: int) -> None:
    """The video with the masks of each second painted over it, and its sound (mono, 16 kHz)."""
    colours = label_colours(num_classes)
    facts, play = inspect(video), playback(video)
    sound = read_sound(facts, 0, int(facts.duration) + 1).astype(np.float32) if facts.has_sound else None

    def painted() -> Iterator[np.ndarray]:
        for number, picture in enumerate(play.pictures()):
            second = min(int(number / play.fps), len(labels) - 1)
            label = Image.fromarray(labels[second]).resize(picture.shape[1::-1], Image.Resampling.NEAREST)
            yield overlay_labels(picture, np.asarray(label), colours)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, painted(), play.fps, sound)
