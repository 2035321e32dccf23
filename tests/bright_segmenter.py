"""A segmenter whose masks show the number of the picture that they were made of, and readers of what is written."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coded_video import number_of
from PIL import Image

from combo_avs.pipeline.common.choices import Outputs
from combo_avs.pipeline.predict.predict import predict

SIZE = 80


@dataclass
class BrightSegmenter:
    """Bright pixels belong to class 1 where there is sound, and to the last class where there is none."""

    classes: tuple[str, ...] = ("background", "sounding")
    size: int = SIZE
    weights: str = "none"
    identity: str = "bright"
    batch_frames: int = 8
    device: str = "cpu"
    stop_after: int | None = None
    calls: list[int] = field(default_factory=list)

    def __call__(
        self, frames: np.ndarray, seconds: np.ndarray, log_mel: np.ndarray, waveform: np.ndarray
    ) -> torch.Tensor:
        if self.stop_after is not None and len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(len(frames))
        loud = np.abs(waveform[seconds].astype(int)).max(axis=1) > 1000
        label = np.where(loud, 1, len(self.classes) - 1).astype(np.uint8)
        return torch.from_numpy((frames.mean(axis=3) > 127) * label[:, None, None])


def call(out: Path, *videos: Path, **options: Any) -> list[str]:
    return predict(Path("run"), list(videos), out, outputs=Outputs(**options))


def published(second: int, fps: int = 25) -> int:
    return int((second + 15 / 16) * fps)


def numbers(masks: np.ndarray) -> list[int]:
    return [number_of(np.repeat((mask > 0)[..., None] * np.uint8(255), 3, axis=2)) for mask in masks]


def png_masks(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def run_lengths(counts: str) -> list[int]:
    """The published decoding of compressed run lengths, written out independently."""
    runs: list[int] = []
    place = 0
    while place < len(counts):
        value = shift = 0
        while True:
            digit = ord(counts[place]) - 48
            place += 1
            value |= (digit & 31) << shift
            shift += 5
            if not digit & 32:
                if digit & 16:
                    value -= 1 << shift
                break
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs


def coco_masks(path: Path) -> np.ndarray:
    content = json.loads(path.read_text())
    masks = np.zeros((len(content["images"]), content["images"][0]["height"], content["images"][0]["width"]), np.uint8)
    for a in content["annotations"]:
        runs = run_lengths(a["segmentation"]["counts"])
        flat = np.repeat(np.arange(len(runs)) % 2, runs).astype(bool)
        mask = flat.reshape(a["segmentation"]["size"], order="F")
        assert a["area"] == mask.sum()
        x, y, w, h = a["bbox"]
        assert mask[y : y + h, x : x + w].sum() == mask.sum()
        assert mask[y : y + h, x].any()
        assert mask[y + h - 1, x : x + w].any()
        masks[a["image_id"]][mask] = a["category_id"]
    return masks


def about_of(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "out" / "a" / "prediction.json").read_text())
