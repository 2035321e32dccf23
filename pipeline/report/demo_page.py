"""The page that the demo writes: scores, curves, and test clips with masks, predictions and sound."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.dataset import ClipDataset
from ...model.combo import COMBO
from ...model.inference import foreground_score
from ..common.choices import Sound
from ..common.pictures import label_colours, outlined, overlay_labels
from ..evaluate.clip import segment
from ..evaluate.scores import Scores
from ..evaluate.sounds import sound_source
from ..runs.folder import read_run_log
from .embed import log_mel_image, png, templates, wav
from .plots import run_curves

GALLERY = 6  # clips


@dataclass(frozen=True)
class DemoResult:
    """What the page shows. scores: by the name of the row, the main one first."""

    run: Path
    dataset: ClipDataset
    model: COMBO
    device: torch.device
    scores: dict[str, Scores]
    video: str  # relative to the page


def write_demo_page(path: Path, result: DemoResult) -> None:
    """Write one HTML file that contains all but the video."""
    main = next(iter(result.scores.values()))
    log = read_run_log(result.run)
    steps = [entry for entry in log if "total" in entry]
    template = templates().get_template("demo.html")
    page = template.render(
        result=result,
        steps=len(steps),
        train_minutes=f"{sum(e['seconds'] for e in steps) / 60:.1f}",
        protocol=main.protocol,
        curves=[picture for _, picture in run_curves(log)],
        gallery=[_clip(result, index, main) for index in _best_to_worst(result.dataset, main)],
    )
    path.write_text(page)


def _best_to_worst(dataset: ClipDataset, scores: Scores) -> list[int]:
    """Indices of clips, evenly spread over the ranking by J."""
    order = sorted(range(len(dataset)), key=lambda i: -(scores.per_clip[dataset.clip(i).id].J or 0))
    picks = np.linspace(0, len(order) - 1, min(GALLERY, len(order))).round().astype(int)
    return [order[p] for p in picks]


def _clip(result: DemoResult, index: int, scores: Scores) -> dict[str, Any]:
    dataset = result.dataset
    sample, span = dataset[index], dataset.clips.span(int(dataset.rows[index]))
    masks = dataset.proposals.read_masks(*span)
    green, orange = label_colours(2), np.array([(0, 0, 0), (255, 120, 60)], np.uint8)
    rows = {
        "frame": sample.frames,
        f"proposals, {' '.join(str(len(m)) for m in masks)} masks": map(outlined, sample.frames, masks),
        "Maskige": sample.maskiges,
        "truth": [
            overlay_labels(f, labels == 1, green) for f, labels in zip(sample.frames, sample.labels, strict=True)
        ],
        "prediction": _predict(result, index, "right", green),
        "with another clip's sound": _predict(result, index, "swapped", orange),
    }
    return {
        "id": sample.clip.id,
        "J": scores.per_clip[sample.clip.id].J,
        "objects": ", ".join(sample.clip.objects),
        "rows": {name: [png(picture) for picture in pictures] for name, pictures in rows.items()},
        "log_mel": png(log_mel_image(dataset.clips.read("log_mel", *span))),
        "sound": wav(dataset.clips.read("waveform", *span).reshape(-1)),
    }


def _predict(result: DemoResult, index: int, sound: Sound, colours: np.ndarray) -> list[np.ndarray]:
    """The prediction painted over each frame, uint8 [H, W, 3]."""
    sample = result.dataset[index]
    scores = segment(result.model.eval(), sample, sound_source(result.dataset, sound)(index, sample))
    found = (foreground_score(scores) > 0).cpu().numpy()
    return [overlay_labels(frame, labels, colours) for frame, labels in zip(sample.frames, found, strict=True)]
