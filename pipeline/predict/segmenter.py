"""The whole system in one call: from pictures and sound to label maps, through the frozen models and the network.

Shapes: n pictures, T seconds of sound, H W pixels of the network, D audio features.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...data.store.attributes import Folding, Provenance
from ...data.store.checksummed_json import digest
from ...errors import BadInput
from ...model.audio import encoder
from ...model.audio.interface import AudioEncoder
from ...model.combo import COMBO
from ...model.foundation import generator, generator_names
from ...model.foundation.interface import ProposalGenerator
from ...model.inference import label_map, semantic_scores
from ..common.devices import image_tensor, pick_device, tensor_on
from ..config.tree import load_config
from ..precompute.masks import limit_masks, maskiges
from ..precompute.worker import PACKAGE, provenance_of
from ..runs.folder import read_run
from ..runs.open import load_network


@dataclass(frozen=True)
class Segmenter:
    """The generator, encoder and network of a run on one device. identity: a digest of all that decides its results."""

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
        """
        samples = torch.from_numpy(waveform).float() / 32768
        features_TD = self.encoder(torch.from_numpy(log_mel).to(self.device), samples.to(self.device)).to(self.device)
        features_nD = features_TD[torch.from_numpy(seconds).to(self.device)]
        starts = range(0, len(frames), self.batch_frames)
        batches = [slice(start, start + self.batch_frames) for start in starts]
        found = [p for batch in batches for p in self.generator(tensor_on(frames[batch], self.device))]
        masks = [limit_masks(proposals, self.folding.max_masks)[0].masks for proposals in found]
        proposed = maskiges(masks, temporal=self.folding.temporal)
        labels = []
        for batch in batches:
            images = (image_tensor(pixels[batch], self.device) for pixels in (frames, proposed))
            predictions = self.model(*images, features_nD[batch])
            scores = semantic_scores(predictions.logits[-1], predictions.masks[-1], frames.shape[1:3])
            labels.append(label_map(scores).cpu())
        return torch.cat(labels)


@dataclass(frozen=True)
class StageOne:
    """What differs from the stage one that a run was trained on.

    overrides: settings of `precompute`, such as weight files. proposals: another generator, needed by runs on imported
    Maskiges.
    """

    overrides: tuple[str, ...] = ()
    proposals: str | None = None


AS_TRAINED = StageOne()


def open_segmenter(run: Path, stage_one: StageOne, device: str) -> Segmenter:
    """The network of a run with its best weights, and the generator and encoder that it was trained with.

    Raises `BadInput` when generator or encoder are not the run's own, and for a run without weights.
    """
    overrides, proposals = list(stage_one.overrides), stage_one.proposals
    if foreign := [o for o in overrides if not o.startswith("precompute.")]:
        raise BadInput(f"{', '.join(foreign)}: only settings of precompute can be set here, the others are the run's")
    config, info = read_run(run)
    where = pick_device(device)
    model, weights = load_network(run, config, len(info.classes), where)
    asked = load_config(None, overrides).precompute
    folding = info.proposals_provenance.maskige or Folding(asked.max_masks, asked.temporal)
    parameters = {**({} if proposals else info.proposals_provenance.parameters), **asked.generator}
    proposer = generator(proposals or _generator_of(info.proposals_provenance), parameters)
    trained = info.audio_provenance
    listener = encoder(trained.name, {**trained.parameters, **asked.encoder})
    made = {"proposals": provenance_of(proposer, folding), "audio": provenance_of(listener, None)}
    if proposals is None:
        _check_provenance(info.proposals_provenance, made["proposals"])
    _check_provenance(info.audio_provenance, made["audio"])
    frozen = {kind: provenance.to_json() for kind, provenance in made.items()}
    identity = digest([frozen, _weights_digest(model), list(info.size), list(info.classes), version(PACKAGE)])[:12]
    proposer, listener = proposer.to(where), listener.to(where)
    return Segmenter(
        proposer, listener, model, where, asked.batch_frames, folding, info.size[0], info.classes, weights, identity
    )


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
