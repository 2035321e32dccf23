"""Score a model on a split: M_J and M_F in any protocol, with the right sound or with a wrong one."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.clip import Clip
from ...data.dataset import ClipDataset, Sample
from ...errors import BadInput
from ...model.combo import COMBO
from ...model.inference import semantic_scores
from ..common.choices import Sound
from ..common.devices import pick_device
from ..common.distributed import Ranks, joined
from ..common.progress import bar
from ..common.tensors import image_tensor
from ..runs.folder import read_best, read_run, write_best
from ..runs.open import open_run
from .counts import Counts, count_pixels
from .metrics import Metrics, SemanticMetrics, make_metrics
from .protocols import find_protocol, full_name

ALONE = Ranks()


@dataclass(frozen=True)
class Scores:
    """M_J and M_F of one evaluation, what they mean, and the clips behind them."""

    M_J: float
    M_F: float
    protocol: str  # its name, and what it means
    details: dict[str, Any]  # counts of clips, empty frames, absent classes; values by class
    per_clip: dict[str, tuple[float, float]]  # clip id -> J, F; empty for semantic sets

    def summary(self) -> dict[str, Any]:
        return {"M_J": self.M_J, "M_F": self.M_F, "protocol": self.protocol, **self.details}


def evaluate_run(
    run: Path, split: str = "test", sound: Sound = "right", device: str = "auto", protocol: str = "published"
) -> Scores:
    """Score the best weights of a run on the store and caches it was trained with.

    Raises `BadInput` when they are gone, or have changed since, and as `evaluate_dataset`.
    """
    return evaluate_run_by(run, [protocol], split, sound, device)[protocol]


def evaluate_run_by(
    run: Path, protocols: Sequence[str], split: str = "test", sound: Sound = "right", device: str = "auto"
) -> dict[str, Scores]:
    """As `evaluate_run`, in several protocols by one pass over the clips: name -> scores, in that order.

    Under torchrun the processes share the clips, and all get the scores.
    """
    with joined() as ranks:
        _, info = ranks.all_do(read_run, run)
        for name in protocols:  # before the work of loading
            find_protocol(name, len(info.classes))
        where = ranks.all_do(pick_device, device)
        opened = ranks.all_do(open_run, run, where)
        return evaluate_dataset_by(opened.network, opened.data.dataset(split), where, protocols, sound, ranks)


def evaluate_dataset(
    model: COMBO,
    dataset: ClipDataset,
    device: torch.device,
    sound: Sound = "right",
    protocol: str = "published",
    ranks: Ranks = ALONE,
    between_clips: Callable[[], None] = lambda: None,
) -> Scores:
    """Score a model on a split, one clip per forward pass as published. Leaves the model's mode as it was.

    protocol: a name of `protocols.PROTOCOLS`, or avsbench-bsN.
    ranks: processes that share the clips; all get the scores that one alone would get, to the last bit.
    between_clips: called by all ranks equally often; what it raises ends the evaluation.
    Raises `BadInput` when no frame of the split has ground truth, or when the protocol does not fit the set.
    """
    return evaluate_dataset_by(model, dataset, device, [protocol], sound, ranks, between_clips)[protocol]


def evaluate_dataset_by(
    model: COMBO,
    dataset: ClipDataset,
    device: torch.device,
    protocols: Sequence[str],
    sound: Sound = "right",
    ranks: Ranks = ALONE,
    between_clips: Callable[[], None] = lambda: None,
) -> dict[str, Scores]:
    """As `evaluate_dataset`, in several protocols by one pass over the clips: name -> scores, in that order."""
    classes = dataset.clips.classes
    chosen = {name: find_protocol(name, len(classes)) for name in protocols}
    if not any(any(dataset.clip(i).frame_annotated) for i in range(len(dataset))):
        raise BadInput(f"split {dataset.split!r} has no annotated frame to score")
    features_of = sound_source(dataset, sound)
    was_training = model.training
    model.eval()
    counted: dict[int, Counts] = {}
    with bar(len(dataset), f"evaluate {dataset.split}, {sound} sound", "clips", shown=ranks.first) as progress:
        for start in range(0, len(dataset), ranks.count):
            between_clips()
            if (index := start + ranks.rank) < len(dataset):
                sample = dataset[index]
                if sample.supervised.any():
                    counted[index] = count_clip(segment(model, sample, features_of(index, sample), device), sample)
            progress.update(min(ranks.count, len(dataset) - start))
    model.train(was_training)
    everywhere = {index: counts for share in ranks.gather(counted) for index, counts in share.items()}

    metrics = {name: make_metrics(protocol, len(classes)) for name, protocol in chosen.items()}
    per_clip: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in chosen}
    for index, counts in sorted(everywhere.items()):
        clip = dataset.clip(index)
        for name, metric in metrics.items():
            if (scored := metric.update(counts, clip.num_frames)) is not None:
                per_clip[name][clip.id] = scored
    return {name: _scores(full_name(name, chosen[name]), metrics[name], classes, per_clip[name]) for name in chosen}


def count_clip(scores_TKHW: Tensor, sample: Sample) -> Counts:
    """The pixel counts behind every metric of one clip, of its annotated frames; scores as `segment` returns them."""
    return count_pixels(scores_TKHW[sample.supervised], torch.from_numpy(sample.labels[sample.supervised]))


@torch.inference_mode()
def segment(model: COMBO, sample: Sample, features: np.ndarray, device: torch.device) -> Tensor:
    """Class scores of one clip, float32 [T, K, H, W] on `device`; features: float32 [T, D]. For models in eval mode."""
    predictions = model(
        image_tensor(sample.frames, device),
        image_tensor(sample.maskiges, device),
        torch.from_numpy(features).to(device),
    )
    return semantic_scores(predictions.logits[-1], predictions.masks[-1], sample.frames.shape[1:3])


def sound_source(dataset: ClipDataset, sound: Sound) -> Callable[[int, Sample], np.ndarray]:
    """A function from a sample's index and the sample to the audio features [T, D] that it is scored with.

    swapped: those of another clip of the same length. silent, noise: those of silence and of white noise, which
    the audio cache carries. Raises `BadInput` when there is no clip to swap with.
    """
    if sound == "right":
        return lambda index, sample: sample.features
    if sound == "swapped":
        partners = swap_partners([dataset.clip(i) for i in range(len(dataset))])
        return lambda index, sample: dataset[partners[index]].features
    probe = np.array(dataset.audio.probes["silence" if sound == "silent" else "noise"], np.float32)
    return lambda index, sample: np.resize(probe, sample.features.shape)


def swap_partners(clips: list[Clip]) -> list[int]:
    """For every clip another one of the same length, with other objects if there is any: the next in the list."""
    partners = []
    for index, clip in enumerate(clips):
        others = [(index + k) % len(clips) for k in range(1, len(clips))]
        others = [i for i in others if clips[i].num_frames == clip.num_frames]
        if not others:
            raise BadInput(f"clip {clip.id} has no other clip of {clip.num_frames} frames to swap its sound with")
        differing = (i for i in others if not set(clips[i].objects) & set(clip.objects))
        partners.append(next(differing, others[0]))
    return partners


def keep_best(run: Path, step: int, model: COMBO, scores: Scores) -> None:
    """Keep the weights and scores in RUN/best if M_J is higher than that of the best so far."""
    best = read_best(run)
    if best is None or best["M_J"] < scores.M_J:
        write_best(run, model.state_dict(), {"step": step, **scores.summary()})


def _scores(
    protocol: str,
    metrics: Metrics,
    classes: tuple[str, ...],
    per_clip: dict[str, tuple[float, float]],
) -> Scores:
    values = asdict(metrics.result())
    j, f = values.pop("M_J"), values.pop("M_F")
    if isinstance(metrics, SemanticMetrics):
        values["classes"] = {name: row for name, row in zip(classes, values["classes"], strict=True) if row["frames"]}
        values["absent"] = [classes[k] for k in values["absent"]]
    return Scores(j, f, protocol, values, per_clip)
