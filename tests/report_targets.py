"""What reports are made of, in small: a root whose names are hostile, and runs on it that were never trained."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from fakes import NoiseSource

from combo_avs.data.clip import Clip, ClipArrays
from combo_avs.model.combo import COMBO
from combo_avs.pipeline.compare.comparable import Scoring
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.report.report import report
from combo_avs.pipeline.runs.data import DataNames, open_data
from combo_avs.pipeline.runs.folder import append_run_log, create_converted_run

HOSTILE_ID = "<img src=x onerror=alert(1)> $&\"'"
HOSTILE_OBJECT = "</script><script>alert(2)</script>"
SMALL = ["model.width=32", "model.heads=2", "model.num_queries=4", "model.encoder_layers=1"]
SMALL += ["model.decoder_layers=1", "model.audio_hidden=16"]


class HostileSource(NoiseSource):
    """Noise whose first clip has HTML for a name and for a category; `labelled`: whether any frame has truth."""

    def __init__(self, clips: int, labelled: bool = True) -> None:
        super().__init__(clips, size=64)
        hostile = replace(self.clips[0], id=HOSTILE_ID, objects=("dog", HOSTILE_OBJECT))
        self.numbers = {clip.id: i for i, clip in enumerate((hostile, *self.clips[1:]))}
        renamed = (hostile, *self.clips[1:])
        if not labelled:
            renamed = tuple(replace(c, frame_annotated=(False,) * c.num_frames) for c in renamed)
        self.clips = renamed

    def read(self, clip: Clip) -> ClipArrays:
        arrays = super().read(replace(clip, id=f"clip-{self.numbers[clip.id]}"))
        if not any(clip.frame_annotated):
            arrays.labels[:] = 255
        return arrays


def make_root(root: Path, clips: int, labelled: bool = True, proposals: Iterable[str] = ("none",)) -> Path:
    import_clips(HostileSource(clips, labelled), root, shard_frames=20)
    for name in proposals:
        run_plans(plan_caches(root, PrecomputeConfig(), name, "logmel"), workers=0, scheduler=None)
    return root


def make_run(root: Path, folder: Path, seed: int = 0, consistency: float = 10.0, proposals: str = "none") -> Path:
    """A run folder with random weights and a log that looks like one."""
    data = open_data(DataNames(root, proposals, "logmel"))
    dim = f"model.audio_dim={data.audio.dim}"
    settings = [*SMALL, dim, f"train.seed={seed}", f"loss.consistency_weight={consistency}"]
    config = load_config("tiny", settings)
    torch.manual_seed(seed)
    model = COMBO(config.model, len(data.clips.classes))
    torch.nn.init.constant_(model.decoder.class_embed.bias[1:2], 2.0)  # or it would hardly see any object
    create_converted_run(folder, config, data.info(), model.state_dict())
    steps = [{"step": s, "total": 9.0 - s, "loss_mask": 5.0 - s, "lr": 0.001, "lr_backbone": 0.0} for s in range(4)]
    append_run_log(folder, [*steps, {"step": 4, "M_J": 0.25, "M_F": 0.5, "protocol": "published: as printed"}])
    return folder


def make_report(targets: list[Path], out: Path) -> Path:
    """The report on the test split, on the CPU."""
    return report(targets, out, Scoring("test", "right", "published"), "cpu")
