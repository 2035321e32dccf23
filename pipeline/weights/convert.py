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
from ...files import file_sha256, replacing
from ...model.audio.vggish import check_vggish, read_vggish
from ...model.combo import COMBO
from ...model.config import ModelConfig
from ...model.criterion import CriterionConfig
from ...model.weights.network_file import network_config, read_header, save_network
from ...model.weights.published_keys import EMPTY_WEIGHT, from_published, published_config, to_published
from ...model.weights.state import State, differences, read_state_dict_and_rest
from ..config.tree import load_config

TASKS = {2: "s4 or ms3", 71: "avss"}  # by number of classes, background counted


def convert_weights(
    source: Path,
    out: Path,
    to: Literal["ours", "published"] = "ours",
    vggish: Path | None = None,
    preset: str | None = None,
) -> str:
    """Convert a COMBO checkpoint; gives lines that say what was found and written.

    to="ours": a checkpoint of the published code -> `out`, safetensors with this package's names whose header holds
    the configuration (see `model.weights.network_file`). VGGish goes to `out` with the ending .vggish.safetensors.
    to="published": weights of this package, of a run or converted -> `out`, .pth or .safetensors, with the VGGish of
    the file `vggish` if that is named, and the class weights of the loss.
    preset: refuse weights of another backbone or number of classes than, say, avss-pvt.
    Raises `BadInput` that lists every key which is missing, unknown or of another shape; nothing is written then. An
    old `out` is replaced when the new one is complete.
    """
    if vggish is not None and to == "ours":
        raise BadInput("--vggish goes with --to published; the other way, VGGish is found in the checkpoint itself")
    if to == "ours":
        return _to_ours(source, out, preset)
    return _to_published(source, out, vggish, preset)


def _to_ours(source: Path, out: Path, preset: str | None) -> str:
    _check_target(out, source, (".safetensors",))
    state, beside = read_state_dict_and_rest(source)
    config, num_classes = published_config(state, str(source))
    _check_preset(preset, config, num_classes, source)
    network, vggish, empty_weight = from_published(state)
    if vggish:
        check_vggish(vggish, source)
    more = {
        "task": TASKS.get(num_classes),
        "source_sha256": file_sha256(source),
        "empty_weight": None if empty_weight is None else empty_weight.tolist(),
    }
    vggish_out = out.with_suffix(".vggish.safetensors")
    with ExitStack() as files:
        save_network(files.enter_context(_replaced(out)), network, config, num_classes, **more)
        if vggish:
            path = files.enter_context(_replaced(vggish_out))
            save_file({key: tensor.contiguous() for key, tensor in vggish.items()}, path, metadata={"format": "pt"})
    parts = [f"{len(network)} of the network", f"{len(vggish)} of VGGish"]
    parts += [f"{EMPTY_WEIGHT}, kept in the header"] if empty_weight is not None else []
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
    header = read_header(source) if source.suffix == ".safetensors" else None
    if header is None:
        config, num_classes = network_config(network, source)
    else:
        config, num_classes = header["config"], header["num_classes"]
    with torch.device("meta"):
        wanted = COMBO(config, num_classes).state_dict()
    if problems := differences(wanted, network):
        raise BadInput.listing(f"{source} is not a whole COMBO network of this package:", problems)
    if config.backbone == "tiny" or config.fusion == "audio":
        odd = "backbone tiny" if config.backbone == "tiny" else "fusion audio"
        raise BadInput(f"{source} is a network with {odd}, which the published code does not have")
    _check_preset(preset, config, num_classes, source)
    sound = None
    if vggish is not None:
        sound = read_vggish(vggish)
        check_vggish(sound, vggish)
    state = to_published(network, sound, _empty_weight(header, num_classes))
    with _replaced(out) as path:
        if out.suffix == ".pth":
            torch.save({"model": state}, path)
        else:
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})
    notes = []
    if sound is None:
        notes.append("without VGGish, which the published code expects within: name its file with --vggish")
    if config.audio_queries != "published":
        notes.append(
            "the published decoder reads the sound in a layout of its own; weights that were not trained with "
            "model.audio_queries=published score lower there"
        )
    return "\n".join([_describe(network, config, num_classes), f"{out}: {len(state)} tensors", *notes])


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
    """`files.replacing` for writers of torch and safetensors."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except (RuntimeError, SafetensorError) as error:  # how torch and safetensors report a full disk
        raise ComboError(f"{path} could not be written: {error}") from error
