"""The whole system in one call: from pictures and sound to label maps, through the frozen models and the network.

Shapes: n pictures, T seconds of sound, H W pixels of the network, D audio features.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.store.attributes import Folding, Provenance
from ...data.store.checksummed_json import digest
from ...errors import BadInput, ComboError
from ...model.audio import encoder
from ...model.audio.interface import AudioEncoder
from ...model.combo import COMBO
from ...model.config import ModelConfig
from ...model.foundation import generator, generator_names
from ...model.foundation.interface import ProposalGenerator
from ...model.inference import label_map, semantic_scores
from ..common.devices import image_tensor, pick_device, tensor_on
from ..config.tree import check_read, load_config
from ..precompute.masks import limit_masks, maskiges
from ..precompute.worker import PACKAGE, provenance_of
from ..runs.folder import read_run
from ..runs.open import choose_weights, load_network

FATAL = (torch.OutOfMemoryError, MemoryError, torch.AcceleratorError)


@dataclass(frozen=True)
class Segmenter:
    """The generator, encoder and network of a run on one device. identity: a digest of all that decides its results.

    batch_frames: pictures per call of the generator. The network always sees a whole pass, see `passes`.
    """

    generator: ProposalGenerator
    encoder: AudioEncoder
    model: COMBO
    device: torch.device
    batch_frames: int
    folding: Folding
    size: int
    classes: tuple[str, ...]
    weights: str
    identity: str

    @torch.inference_mode()
    def __call__(self, frames: np.ndarray, seconds: np.ndarray, log_mel: np.ndarray, waveform: np.ndarray) -> Tensor:
        """The class index of every pixel, uint8 [n, H, W] on the CPU.

        frames: uint8 [n, H, W, 3], RGB. seconds: int64 [n], 0..T-1, the second whose sound goes with each frame.
        log_mel: float32 [T, 96, 64]. waveform: int16 [T, 16000].
        Raises `ComboError` when the device runs out of memory.
        """
        with self._fatal("the audio encoder hears five seconds at a time"):
            features_TD = self._hear(log_mel, waveform)
        fewer = f"--set precompute.batch_frames={self.batch_frames // 2}: fewer pictures per call of the generator"
        with self._fatal(fewer if self.batch_frames > 1 else "the generator has one picture at a time already"):
            proposed = self._propose(frames)
        labels = np.empty(frames.shape[:3], np.uint8)
        with self._fatal("the network sees five pictures at a time, whatever precompute.batch_frames"):
            for pictures_T in passes(seconds, len(features_TD)):
                images = (image_tensor(pixels[pictures_T], self.device) for pixels in (frames, proposed))
                predictions = self.model(*images, features_TD)
                scores = semantic_scores(predictions.logits[-1], predictions.masks[-1], frames.shape[1:3])
                own = seconds[pictures_T] == np.arange(len(pictures_T))
                labels[pictures_T[own]] = label_map(scores).cpu().numpy()[own]
        return torch.from_numpy(labels)

    def _hear(self, log_mel: np.ndarray, waveform: np.ndarray) -> Tensor:
        """float32 [T, D] on the device."""
        samples = torch.from_numpy(waveform).float() / 32768
        return self.encoder(torch.from_numpy(log_mel).to(self.device), samples.to(self.device)).to(self.device)

    def _propose(self, frames: np.ndarray) -> np.ndarray:
        """Maskiges of n pictures, uint8 [n, H, W, 3]."""
        starts = range(0, len(frames), self.batch_frames)
        batches = (tensor_on(frames[start : start + self.batch_frames], self.device) for start in starts)
        found = [proposals for batch in batches for proposals in self.generator(batch)]
        masks = [limit_masks(proposals, self.folding.max_masks)[0].masks for proposals in found]
        return maskiges(masks, temporal=self.folding.temporal)

    @contextmanager
    def _fatal(self, advice: str) -> Iterator[None]:
        try:
            yield
        except FATAL as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            failed = f"{self.device} failed or is out of memory ({reason})"
            other = "" if self.device.type == "cpu" else "; --device cpu has the memory of this machine"
            raise ComboError(
                f"{failed}; the same command goes on from here. {advice[0].upper()}{advice[1:]}{other}"
            ) from error


def passes(seconds: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """The pictures that the network sees together, as int64 [T] for T = `length`: in each pass one of every second.

    seconds: int64 [n], ascending, 0..T-1, of n >= 1 pictures. The first pass has the first picture of every second, the
    next one the second, and so on, so that each is like a clip of stage one; a second that has no such picture repeats
    that of the second before it, as import does behind the end of a video, or else that of the one after it. Every
    picture is in one pass at the place of its own second.
    """
    first_of_second = np.searchsorted(seconds, seconds)
    rank = np.arange(len(seconds)) - first_of_second
    for number in range(rank.max() + 1):
        pictures = np.flatnonzero(rank == number)
        yield pictures[np.maximum(np.searchsorted(seconds[pictures], np.arange(length), side="right") - 1, 0)]


@dataclass(frozen=True)
class StageOne:
    """What differs from the stage one that a run was trained on.

    overrides: settings of `precompute`, such as weight files. proposals: another generator, needed by runs on imported
    Maskiges.
    """

    overrides: tuple[str, ...] = ()
    proposals: str | None = None


AS_TRAINED = StageOne()
UNREAD = {  # by `predict`
    "precompute.device": "write --device",
    "precompute.slurm": "it is read by 'combo precompute --slurm'",
}
FOLDED: dict[str, str] = {
    f"precompute.{key}": "the run was trained with its own, which is taken" for key in ("max_masks", "temporal")
}


def open_segmenter(run: Path, stage_one: StageOne, device: str) -> Segmenter:
    """The network of a run with its best weights, and the generator and encoder that it was trained with.

    Raises `BadInput` when generator or encoder are not the run's own, and for a run without weights.
    """
    overrides, proposals = list(stage_one.overrides), stage_one.proposals
    check_read("predict", overrides, UNREAD)
    config, info = read_run(run)
    where = pick_device(device)
    weights = choose_weights(run, config)
    model = load_network(weights, config, len(info.classes), where)
    asked = load_config(None, overrides).precompute
    if (folding := info.proposals_provenance.maskige) is None:
        folding = Folding(asked.max_masks, asked.temporal)
    else:
        check_read("predict", overrides, FOLDED)
    parameters = {**({} if proposals else info.proposals_provenance.parameters), **asked.generator}
    proposer = generator(proposals or _generator_of(info.proposals_provenance), parameters)
    trained = info.audio_provenance
    listener = encoder(trained.name, {**trained.parameters, **asked.encoder})
    made = {"proposals": provenance_of(proposer, folding), "audio": provenance_of(listener, None)}
    if proposals is None:
        _check_provenance(info.proposals_provenance, made["proposals"])
    _check_provenance(info.audio_provenance, made["audio"])
    frozen = {kind: provenance.to_json() for kind, provenance in made.items()}
    made_by = [frozen, _weights_digest(model), list(info.size), list(info.classes), version(PACKAGE)]
    identity = digest([*made_by, *unseen_settings(config.model)])[:12]
    proposer, listener = proposer.to(where), listener.to(where)
    size, name = info.size[0], str(weights)
    return Segmenter(proposer, listener, model, where, asked.batch_frames, folding, size, info.classes, name, identity)


def unseen_settings(config: ModelConfig) -> list[tuple[str, str]]:
    """Settings other than the defaults that change results and neither names nor shapes of weights."""
    names = ("audio_queries", "queries", "fusion_residual")
    values = ((name, getattr(config, name)) for name in names)
    return [(name, value) for name, value in values if value != ModelConfig.model_fields[name].default]


def _generator_of(provenance: Provenance) -> str:
    """The generator behind a cache. Raises `BadInput` for caches that no generator made, such as imported Maskiges."""
    name = provenance.name.removeprefix("untrained-")
    known = [known.split()[0] for known in generator_names()]  # a plug-in's package follows its name
    if name not in known:
        raise BadInput(
            f"{name!r} is no proposal generator (there are {', '.join(known)}); for a run on imported "
            "Maskiges name the most similar generator: --proposals NAME"
        )
    return name


def _check_provenance(trained: Provenance, here: Provenance) -> None:
    """Raises `BadInput` that names the differences."""
    if differing := trained.differing(here):
        raise BadInput(
            f"{trained.name} is not what the run was trained with (different: {', '.join(differing)}); "
            f"trained with {trained.to_json()}, here {here.to_json()}"
        )


def _weights_digest(model: COMBO) -> str:
    seen = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        seen.update(name.encode())
        seen.update(tensor.contiguous().cpu().numpy().tobytes())
    return seen.hexdigest()
