"""Progress of a training: the bar, RUN/log.jsonl, TensorBoard, and pictures of some clips of val."""

import math
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]: generated
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ...base import IGNORE_LABEL
from ...data.dataset import ClipDataset
from ...model.combo import COMBO
from ...model.inference import label_map
from ..common.distributed import Ranks
from ..common.pictures import label_colours, overlay_labels
from ..common.progress import bar
from ..config.train import TrainConfig
from ..evaluate.clip import segment
from ..evaluate.scores import Scores
from ..runs.folder import append_run_log
from .step import NotFinite

LOOK_EVERY = 10  # steps between reading the losses, which waits for the device
PICTURED = 4  # clips of val


class Monitor:
    """Collects the log entries of steps and writes them every `LOOK_EVERY` steps. Only the first rank writes."""

    def __init__(self, run: Path, config: TrainConfig, done: int, ranks: Ranks, device: torch.device) -> None:
        self._run, self._ranks, self._device = run, ranks, device
        # Under fp16 gradients may overflow now and then.
        self._vital = ("total",) if config.precision == "fp16" else ("total", "grad_norm")
        self._pending: list[dict[str, Any]] = []
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=done) if ranks.first else None
        self._bar = bar(config.steps, "train", "steps", done=done, shown=ranks.first)
        self._last = time.perf_counter()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def step(self, entry: dict[str, Any], waited: float) -> None:
        """Take the entry of a step as `train_step` returns it; waited: seconds for its batch."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        clips = len(entry["clips"]) * self._ranks.count
        speed = {"clips_per_second": clips / seconds, "data_wait": waited, "memory_gb": memory_gb(self._device)}
        self._pending.append({**entry, **speed})
        self._bar.update()
        if len(self._pending) == LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Write the entries since the last call. Raises `NotFinite` at the first step whose losses are not finite."""
        entries = plain_entries(self._pending, self._ranks)
        self._pending = []
        broken = next((i for i, e in enumerate(entries) if not all(math.isfinite(e[k]) for k in self._vital)), None)
        entries = entries[: None if broken is None else broken + 1]
        if self._ranks.first:
            append_run_log(self._run, entries)
            for entry in entries:
                self._scalars({scalar_name(k): v for k, v in entry.items() if k != "step"}, entry["step"])
        if entries:
            last = entries[-1]
            self._bar.set_postfix_str(f"loss={last['total']:.3f}, {last['memory_gb']:.1f} GB", refresh=False)
        if broken is not None:
            terms = [k for k, v in entries[-1].items() if not math.isfinite(v)]
            raise NotFinite(entries[-1]["step"], f"not finite: {', '.join(terms)}", everywhere=True)

    def scored(self, done: int, scores: Scores, picture: np.ndarray) -> None:
        """Write the scores after `done` steps, and the picture of `validation_picture`."""
        if self._board is None:
            return
        append_run_log(self._run, [{"step": done, **scores.summary()}])
        self._scalars({"val/M_J": scores.M_J, "val/M_F": scores.M_F}, done)
        self._board.add_image("val", picture, done, dataformats="HWC")
        path = self._run / "pictures" / f"step-{done:08d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)

    def restart_clock(self) -> None:
        """Exclude the save or evaluation that just ended from the next step's speed."""
        self._last = time.perf_counter()

    def _scalars(self, values: dict[str, float], step: int) -> None:
        """All values of a step as one event: 20 times as fast as `add_scalar` for each."""
        if self._board is None:
            return
        summary = Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()])
        self._board._get_file_writer().add_summary(summary, step)


def plain_entries(entries: list[dict[str, Any]], ranks: Ranks) -> list[dict[str, Any]]:
    """Entries with numbers for tensors, means over ranks, by one copy from the device; without clips."""
    if not entries:
        return []
    names = [k for k, v in entries[0].items() if isinstance(v, Tensor)]
    values = torch.stack([torch.stack([e[name].detach().float() for name in names]) for e in entries])
    rows = ranks.mean(values).tolist()
    return [
        {**{k: v for k, v in e.items() if k not in names and k != "clips"}, **dict(zip(names, row, strict=True))}
        for e, row in zip(entries, rows, strict=True)
    ]


def scalar_name(key: str) -> str:
    """The TensorBoard tag of a log value."""
    folder = "loss" if key.startswith("loss_") or key == "total" else "train"
    return f"{folder}/{key.removeprefix('loss_')}"


def memory_gb(device: torch.device) -> float:
    """Peak memory so far: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def validation_picture(model: COMBO, dataset: ClipDataset) -> np.ndarray:
    """uint8 [H', W', 3]: a row of frames with the truth and a row with the prediction, for some clips of the split."""
    colours = label_colours(len(dataset.clips.classes))
    model_mode = model.training
    model.eval()
    rows = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, PICTURED).astype(int)):
        sample = dataset[int(index)]
        predicted = label_map(segment(model, sample, sample.features)).cpu().numpy()
        truth = np.where(sample.labels == IGNORE_LABEL, 0, sample.labels)
        for labels in (truth, predicted):
            pairs = zip(sample.frames, labels, strict=True)
            rows.append(np.concatenate([overlay_labels(frame, shown, colours) for frame, shown in pairs], axis=1))
    model.train(model_mode)
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows])
