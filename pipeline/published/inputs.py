"""Everything that a reproduction needs, checked before anything is started; all that is wrong is listed at once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from ...data.clip import SPLITS
from ...data.sources.avsbench.source import AvsBenchSource
from ...data.sources.maskige_tree import MaskigeTree
from ...data.store.clip_table import ClipTable, plan_order
from ...data.store.root import open_cache
from ...data.store.store import ClipStore
from ...errors import BadInput
from ...model.audio.vggish import check_vggish, read_vggish
from ...model.config import ModelConfig
from ...model.weights.published_keys import from_published, known_keys, published_config
from ...model.weights.read import read_state_dict
from ...model.weights.state import State, weights_sha256
from ..imports.maskiges import NAME as OFFICIAL
from .paper import CLASSES, CLIPS, FUSIONS

SIZE = 224  # pixels; all published numbers
BACKBONES = {"r50": "r50", "pvt": "pvt-v2-b5"}

Checked = TypeVar("Checked")


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint, as the network that it is to be evaluated as."""

    path: Path
    sha256: str
    config: ModelConfig
    num_classes: int
    network: State  # named as in COMBO.state_dict()
    vggish: State  # empty if the file holds none


@dataclass(frozen=True)
class Request:
    """Which number to reproduce, and with what."""

    subset: str  # s4, ms3 or avss
    backbone: str  # r50 or pvt
    source: Path  # AVSBench, see `AvsBenchSource`
    checkpoint: Path  # the published file
    root: Path  # the cache root to work in; what is finished there is used again
    maskiges: Path | None = None  # folder of the released ones; None: they are in `source`, or in `root` as a cache
    vggish: Path | None = None  # weights; None: those in the checkpoint
    proposals: str = OFFICIAL  # a cache of `root`
    fusion: Literal["none", "bilateral"] | None = None  # None: the one that the checkpoint has weights for


@dataclass(frozen=True)
class Inputs:
    """What was asked for, complete and valid. maskiges: the released pictures to import; None: a cache is finished."""

    request: Request
    source: AvsBenchSource
    checkpoint: PublishedCheckpoint
    maskiges: Path | None


def check_inputs(request: Request) -> Inputs:
    """Check all files of the data set, all weights, and the Maskiges. Writes nothing.

    Raises `BadInput` that lists everything that is missing or unfit.
    """
    subset, backbone = request.subset, request.backbone
    if subset not in CLIPS or backbone not in BACKBONES:
        known = f"{', '.join(CLIPS)} with {' or '.join(BACKBONES)}"
        raise BadInput(f"the paper has no numbers for {subset!r} with {backbone!r}; there are {known}")
    problems: list[str] = []

    def attempt(check: Callable[..., Checked], *arguments: Any) -> Checked | None:
        try:
            return check(*arguments)
        except BadInput as error:
            problems.append(str(error).replace("\n", "\n    "))
            return None

    data = attempt(AvsBenchSource, request.source, subset, SIZE)
    weights = attempt(_read_checkpoint, request, len(data.classes) if data else CLASSES[subset])
    attempt(_check_vggish, request.vggish, weights)
    pictures = attempt(_find_maskiges, request, data)
    if data and (request.root / "clips.zarr").exists():
        attempt(_check_root, request.root, data)
    if problems or data is None or weights is None:
        raise BadInput.listing(f"{subset} with {backbone} cannot be reproduced yet:", problems, "Nothing was started.")
    return Inputs(request, data, weights, pictures)


def _read_checkpoint(request: Request, classes: int) -> PublishedCheckpoint:
    path, backbone, fusion = request.checkpoint, BACKBONES[request.backbone], request.fusion
    state = known_keys(read_state_dict(path), path)
    found, found_classes = published_config(state, str(path))
    if found.backbone != backbone:
        raise BadInput(f"{path} has backbone {found.backbone}, not {backbone}; name the other checkpoint")
    if found_classes != classes:
        raise BadInput(f"{path} is of {found_classes} classes, the data set of {classes}; name its own checkpoint")
    network, vggish, _ = from_published(state)
    if fusion is not None and fusion != found.fusion:
        if fusion != "none":
            raise BadInput(f"--fusion {fusion}: {path} holds no weights of it, only of {found.fusion!r}")
        network = {key: value for key, value in network.items() if not _is_fusing(key)}
    config = found.model_copy(update={"fusion": fusion or found.fusion})
    return PublishedCheckpoint(path, weights_sha256(path), config, classes, network, vggish)


def _is_fusing(key: str) -> bool:
    """Weights that fusion "none" has no place for. Its embeddings stay: the published code adds one of them always."""
    return key.startswith("fusion.") and not key.startswith(("fusion.level_embed.", "fusion.audio_pos."))


def _check_vggish(path: Path | None, checkpoint: PublishedCheckpoint | None) -> None:
    """Check the weights that were named, else those of the checkpoint."""
    if path is not None:
        check_vggish(read_vggish(path), path)
    elif checkpoint is not None and not checkpoint.vggish:
        raise BadInput(f"{checkpoint.path} holds no VGGish weights; name them with --vggish vggish-10086976.pth")
    elif checkpoint is not None:
        check_vggish(checkpoint.vggish, checkpoint.path)


def _find_maskiges(request: Request, data: AvsBenchSource | None) -> Path | None:
    """The folder of the released pictures to import: the one named, else the data set; None when a cache will do."""
    maskiges, proposals = request.maskiges, request.proposals
    if maskiges is not None and proposals != OFFICIAL:
        raise BadInput(f"--maskiges is for --proposals {OFFICIAL}, not {proposals}; leave one of them out")
    if maskiges is None:
        try:
            _check_cache(request.root, proposals)
            return None
        except BadInput:
            if proposals != OFFICIAL:
                raise
    folder = maskiges or request.source
    if data is not None:
        try:
            MaskigeTree(folder, data.clips, data.size)
        except BadInput as error:
            raise BadInput(f"{error}" if maskiges else f"{error}\nName their folder with --maskiges.") from error
    elif maskiges is not None and not maskiges.is_dir():  # without the clips, no more than this can be seen
        raise BadInput(f"{maskiges} is no folder; --maskiges names the one with the released Maskiges")
    return folder


def _check_cache(root: Path, proposals: str) -> None:
    clips = ClipStore(root)
    cache = open_cache(clips, "proposals", proposals)
    if missing := set(clips.shards_of("test")) - cache.receipts().keys():
        raise BadInput(f"{cache.path}: {len(missing)} shards of the test split are missing; run its command again")


def _check_root(root: Path, data: AvsBenchSource) -> None:
    there = ClipStore(root)
    plan = ClipTable.of(plan_order(data.clips)).digest()
    if (there.dataset, there.table.digest()) != (data.name, plan):
        raise BadInput(f"{there.path} holds other clips; name another root")


def obstacles(inputs: Inputs, generator: str) -> list[str]:
    """Why scores of these inputs, with Maskiges of that generator, are not those of the published experiment."""
    subset, backbone, vggish = inputs.request.subset, inputs.request.backbone, inputs.request.vggish
    checkpoint, config = inputs.checkpoint, inputs.checkpoint.config
    found = {split: sum(clip.split == split for clip in inputs.source.clips) for split in SPLITS}
    official = ModelConfig(backbone=BACKBONES[backbone])
    reasons = []
    if found != CLIPS[subset]:
        have, expected = (", ".join(f"{n} {split}" for split, n in c.items()) for c in (found, CLIPS[subset]))
        reasons.append(f"the clips are not the official ones: {have}, not {expected}")
    if generator != OFFICIAL:
        reasons.append(f"the Maskiges are of {generator}, not the released ones")
    if checkpoint.num_classes != CLASSES[subset]:
        reasons.append(f"there are {checkpoint.num_classes} classes, not {CLASSES[subset]}")
    sizes = [key for key in ModelConfig.model_fields if key not in ("fusion", "audio_queries")]
    differing = [key for key in sizes if getattr(config, key) != getattr(official, key)]
    reasons += [f"model.{k} of the checkpoint is {getattr(config, k)}, not {getattr(official, k)}" for k in differing]
    if config.fusion not in FUSIONS[subset, backbone]:
        reasons.append(f"fusion is {config.fusion}, not {' or '.join(FUSIONS[subset, backbone])}")
    if vggish and (own := checkpoint.vggish):
        named = read_vggish(vggish)
        if named.keys() != own.keys() or not all(torch.equal(named[key], own[key]) for key in own):
            reasons.append(f"{vggish} holds other weights than the VGGish of the checkpoint")
    return reasons


def notes(inputs: Inputs) -> list[str]:
    """What cannot be told from these inputs, and what is known to differ from the published route."""
    subset, backbone = inputs.request.subset, inputs.request.backbone
    known = ["no checksums were published: that checkpoint and Maskiges are the published ones is taken on trust"]
    if len(FUSIONS[subset, backbone]) > 1:
        known.append(
            "the released test settings of this model leave fusion out (--fusion none), its training settings do not "
            "(--fusion bilateral); which of them gave the printed numbers is not known"
        )
    if subset == "avss":
        route = "the released route saves them as JPEG once more before it reads them"
        known.append(f"frames are read from the data set and brought to 224 x 224; {route}")
    else:
        other = "MS3" if subset == "s4" else "S4"
        known.append(f"nothing in a checkpoint says whether it is of S4 or MS3; one of {other} passes all checks")
    if not inputs.checkpoint.vggish:
        known.append("the checkpoint holds no VGGish to compare the weights in use with")
    return known
