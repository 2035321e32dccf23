"""Weights of the published code into this package's files, and back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ...errors import BadInput, ComboError
from ...files import replacing
from ...model.audio.vggish import check_vggish, read_vggish
from ...model.combo import COMBO
from ...model.config import ModelConfig
from ...model.criterion import CriterionConfig
from ...model.weights.network_file import network_config, network_metadata, read_header
from ...model.weights.published_keys import EMPTY_WEIGHT, from_published, known_keys, published_config, to_published
from ...model.weights.read import is_safetensors, read_state_dict_and_rest
from ...model.weights.state import State, differences, weights_sha256
from ..config.tree import load_config
from ..runs.folder import read_run

PUBLISHED_BACKBONES = ("r50", "pvt-v2-b5")
PUBLISHED_AUDIO_DIM = 128
PUBLISHED_FUSIONS = ("none", "visual", "bilateral")
TASKS = {2: "s4 or ms3", 71: "avss"}  # by number of classes, background counted


def convert_weights(
    source: Path,
    out: Path,
    to: Literal["ours", "published"] = "ours",
    vggish: Path | None = None,
    preset: str | None = None,
) -> str:
    """Convert a COMBO checkpoint. Returns lines that say what was found and written.

    to="ours": a checkpoint of the published code -> `out`, safetensors with this package's names that carry the config
    (see `model.weights.network_file`). VGGish goes to `out` with the ending .vggish.safetensors.
    to="published": weights of this package, of a run or converted -> `out`, .pth or .safetensors, with the VGGish of
    the file `vggish` if one is named, and the class weights of the loss.
    preset: refuse weights of another backbone or number of classes than, say, avss-pvt.
    Raises `BadInput`, before anything is written, that lists every key which is missing, unknown or of another shape,
    and everything that the published code does not have. An existing `out` is replaced when the new one is complete.
    """
    if vggish is not None and to == "ours":
        raise BadInput("--vggish goes with --to published; the other way, VGGish is found in the checkpoint itself")
    if to == "ours":
        return _to_ours(source, out, preset)
    return _to_published(source, out, vggish, preset)


def _to_ours(source: Path, out: Path, preset: str | None) -> str:
    _check_target(out, source, (".safetensors",))
    state, beside = read_state_dict_and_rest(source)
    state = known_keys(state, source)
    config, num_classes = published_config(state, str(source))
    _check_preset(preset, config, num_classes, source)
    network, vggish, empty_weight = from_published(state)
    if vggish:
        check_vggish(vggish, source)
    more = {
        "task": TASKS.get(num_classes),
        "source_sha256": weights_sha256(source),
        "empty_weight": None if empty_weight is None else empty_weight.tolist(),
    }
    vggish_out = out.with_suffix(".vggish.safetensors")
    with ExitStack() as files:
        _save(files.enter_context(_replaced(out)), network, network_metadata(config, num_classes, **more))
        if vggish:
            _save(files.enter_context(_replaced(vggish_out)), vggish, {"format": "pt"})
    parts = [f"{len(network)} of the network", f"{len(vggish)} of VGGish"]
    parts += [f"{EMPTY_WEIGHT}, kept in the metadata"] if empty_weight is not None else []
    return "\n".join(
        [
            f"{source}: {len(state)} tensors: {', '.join(parts)}",
            *([f"left out, as they are no weights: {', '.join(beside)}"] if beside else []),
            _describe(network, config, num_classes),
            f"{out}: the network",
            f"{vggish_out}: VGGish" if vggish else "no VGGish in it: name a file of its own for the sound",
        ]
    )


def _to_published(source: Path, out: Path, vggish: Path | None, preset: str | None) -> str:
    _check_target(out, source, (".pth", ".safetensors"))
    network, _ = read_state_dict_and_rest(source)
    header = read_header(source) if is_safetensors(source) else None
    if header is not None:
        config, num_classes = header["config"], header["num_classes"]
    else:
        config, num_classes = _config_of_run(source) or network_config(network, source)
    with torch.device("meta"):
        wanted = COMBO(config, num_classes).state_dict()
    if problems := differences(wanted, network):
        raise BadInput.listing(f"{source} is not a whole COMBO network of this package:", problems)
    if odd := _without_counterpart(config):
        raise BadInput.listing(f"{source} is a network with what the published code does not have:", odd)
    _check_preset(preset, config, num_classes, source)
    sound = None
    if vggish is not None:
        sound = read_vggish(vggish)
        check_vggish(sound, vggish)
    if config.siam == "shared":  # the published code has two backbones: equal ones compute the same
        network = network | {
            key.replace("image_backbone", "maskige_backbone", 1): tensor.clone()
            for key, tensor in network.items()
            if key.startswith("siam_encoder.image_backbone.")
        }
    state = to_published(network, sound, _empty_weight(header, num_classes))
    with _replaced(out) as path:
        if out.suffix == ".pth":
            torch.save({"model": state}, path)
        else:
            _save(path, state, {"format": "pt"})
    notes = []
    if sound is None:
        notes.append("without VGGish, which the published code expects within: name its file with --vggish")
    if config.siam == "shared":
        notes.append("the one backbone stands in it twice, for frames and for Maskiges: the same numbers come out")
    if config.siam == "none":
        notes.append("without a backbone for Maskiges: switch the Maskige branch of the published code off")
    if config.audio_queries != "published":
        notes.append(
            "trained with model.audio_queries=per_frame: the published code gives queries the audio of other frames, "
            "and is right for these weights only with one frame per forward pass; see docs/fidelity.md"
        )
    return "\n".join([_describe(network, config, num_classes), f"{out}: {len(state)} tensors", *notes])


def _config_of_run(source: Path) -> tuple[ModelConfig, int] | None:
    """Config and number of classes of the run in whose folder `source` lies: runs once wrote no metadata."""
    for folder in source.resolve().parents[1:3]:  # RUN/best/FILE, RUN/checkpoints/step-N/FILE
        if (folder / "run.json").exists():
            config, info = read_run(folder)
            return config.model, len(info.classes)
    return None


def _without_counterpart(config: ModelConfig) -> list[str]:
    """What the published code cannot build, or builds differently although all weights fit."""
    odd = []
    if config.backbone not in PUBLISHED_BACKBONES:
        odd.append(f"backbone {config.backbone}; it has {', '.join(PUBLISHED_BACKBONES)}")
    if config.audio_dim != PUBLISHED_AUDIO_DIM:
        odd.append(f"audio_dim {config.audio_dim}; it hears the {PUBLISHED_AUDIO_DIM} features of VGGish")
    if config.fusion not in PUBLISHED_FUSIONS:
        odd.append(f"fusion {config.fusion}; it has {', '.join(PUBLISHED_FUSIONS)}")
    elif config.fusion_residual != "normalised" and config.fusion != "none":
        odd.append(f"fusion_residual {config.fusion_residual}; it adds to the layer-normalised inputs")
    return odd


def _save(path: Path, state: State, metadata: dict[str, str]) -> None:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata=metadata)


def _empty_weight(header: dict[str, Any] | None, num_classes: int) -> Tensor | None:
    """float32 [K + 1], the class weights of the loss: those of the file that was converted, else the published ones."""
    if header is not None and "empty_weight" in header:
        return None if header["empty_weight"] is None else torch.tensor(header["empty_weight"])
    weights = torch.ones(num_classes + 1)
    weights[-1] = CriterionConfig().no_object
    return weights


def _describe(network: State, config: ModelConfig, num_classes: int) -> str:
    task = TASKS.get(num_classes)
    return (
        f"COMBO with {config.backbone}, siam {config.siam}, fusion {config.fusion}, queries {config.queries}, "
        f"{config.num_queries} of them, {num_classes} classes{f' ({task})' if task else ''}: "
        f"{sum(t.numel() for t in network.values()):,} numbers"
    )


def _check_target(out: Path, source: Path, endings: tuple[str, ...]) -> None:
    if out.suffix not in endings:
        raise BadInput(f"{out}: the file to write must end in {' or '.join(endings)}")
    if out.resolve() == source.resolve():
        raise BadInput(f"{out} is the file to convert; name another one to write")


def _check_preset(preset: str | None, config: ModelConfig, num_classes: int, source: Path) -> None:
    if preset is None:
        return
    wanted = load_config(preset, []).model.backbone, 71 if preset.startswith("avss") else 2
    if wanted != (config.backbone, num_classes):
        raise BadInput(
            f"{source} is of {config.backbone} with {num_classes} classes, {preset} of {wanted[0]} with {wanted[1]}"
        )


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """`files.replacing` for what torch and safetensors write."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except (RuntimeError, SafetensorError) as error:  # how torch and safetensors report a full disk
        raise ComboError(f"{path} could not be written: {error}") from error
