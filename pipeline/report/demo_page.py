"""The demo's report: scores, curves, and test clips with everything that was made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from ...data.dataset import ClipDataset
from ...model.combo import COMBO
from ...model.inference import foreground_score
from ..common.choices import Sound
from ..common.pictures import outlined, overlay
from ..evaluate.clip import segment
from ..evaluate.scores import Scores
from ..evaluate.sounds import sound_source
from ..runs.folder import read_run_log
from .embed import curves, log_mel_picture, png, smooth, wav

GALLERY = 6  # clips


@dataclass(frozen=True)
class DemoResult:
    """What the page shows. scores: row name -> scores, the main one first."""

    run: Path
    dataset: ClipDataset
    model: COMBO
    device: torch.device
    scores: dict[str, Scores]
    video: str  # address of the predicted video, relative to the page


def write_demo_page(path: Path, result: DemoResult) -> None:
    """Write one HTML file; only the video stays beside it."""
    main = next(iter(result.scores.values()))
    steps = [e for e in read_run_log(result.run) if "total" in e]
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("demo.html").render(
        clips=len(result.dataset.clips.table),
        proposals=result.dataset.proposals.name,
        audio=result.dataset.audio.name,
        preset="tiny",
        steps=len(steps),
        train_minutes=f"{sum(e['seconds'] for e in steps) / 60:.1f}",
        device=str(result.device),
        scores=[{"name": name, "M_J": s.M_J, "M_F": s.M_F} for name, s in result.scores.items()],
        protocol=main.protocol,
        curves=_training_curves(result.run),
        gallery=[_clip(result, index, main) for index in _best_to_worst(result.dataset, main)],
        video=result.video,
    )
    path.write_text(page)


def _training_curves(run: Path) -> list[str]:
    log = read_run_log(run)
    steps = [e for e in log if "total" in e]
    x = [float(e["step"]) for e in steps]
    terms = {"class": "loss_ce", "mask": "loss_mask", "dice": "loss_dice"}
    losses = {name: (x, smooth([e[key] for e in steps], 20)) for name, key in terms.items()}
    scored = [e for e in log if "M_J" in e]
    xs = [float(e["step"]) for e in scored]
    return [
        curves({"total": (x, smooth([e["total"] for e in steps], 20))}, "loss, all terms", log=True),
        curves(losses, "loss of the final prediction", log=True),
        curves({m: (xs, [e[m] for e in scored]) for m in ("M_J", "M_F")}, "score on val"),
    ]


def _best_to_worst(dataset: ClipDataset, scores: Scores) -> list[int]:
    """Clips spread evenly over the ranking by J."""
    order = sorted(range(len(dataset)), key=lambda i: -scores.per_clip[dataset.clip(i).id][0])
    picks = np.linspace(0, len(order) - 1, min(GALLERY, len(order))).round().astype(int)
    return [order[p] for p in picks]


def _clip(result: DemoResult, index: int, scores: Scores) -> dict[str, Any]:
    dataset = result.dataset
    sample = dataset[index]
    first, end = dataset.clips.span(int(dataset.rows[index]))
    predicted = _predict(result, index, "right")
    swapped = _predict(result, index, "swapped")
    frames = []
    for t, frame in enumerate(sample.frames):
        masks = dataset.proposals.read_masks(first + t)
        frames.append(
            {
                "frame": png(frame),
                "masks": png(outlined(frame, masks)),
                "mask_count": len(masks),
                "maskige": png(sample.maskiges[t]),
                "truth": png(overlay(frame, sample.labels[t] == 1)),
                "prediction": png(overlay(frame, predicted[t])),
                "swapped": png(overlay(frame, swapped[t], colour=(255, 120, 60))),
            }
        )
    return {
        "id": sample.clip.id,
        "J": scores.per_clip[sample.clip.id][0],
        "objects": ", ".join(sample.clip.objects),
        "frames": frames,
        "log_mel": log_mel_picture(dataset.clips.read("log_mel", first, end)),
        "sound": wav(dataset.clips.read("waveform", first, end).reshape(-1)),
    }


def _predict(result: DemoResult, index: int, sound: Sound) -> np.ndarray:
    """bool [T, H, W]."""
    sample = result.dataset[index]
    features = sound_source(result.dataset, sound)(index, sample)
    scores = segment(result.model.eval(), sample, features)
    return (foreground_score(scores) > 0).cpu().numpy()
