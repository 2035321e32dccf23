"""Weight files that carry the config of their network; for files that do not, the config is guessed from shapes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from ...errors import BadInput
from ..combo import COMBO
from ..config import ModelConfig
from ..pixel_decoder import POINTS
from .read import read_state_dict
from .state import State, load_weights

HEADER = "combo"  # key of the safetensors metadata that holds our JSON
METRICS = "metrics"  # key of the metadata of a run's best weights: JSON, with ours under `HEADER`
# Keys that only one kind of network has: the first prefix that occurs decides.
BACKBONES = {"conv1.0.": "tiny", "layer1.": "r50", "stages_": "pvt-v2-b5"}
FUSIONS = {
    **dict.fromkeys(("out_v_proj.", "values_a_proj.", "gamma_v"), "bilateral"),
    **dict.fromkeys(("out_a_proj.", "values_v_proj.", "a_proj."), "audio"),
    **dict.fromkeys(("query_proj.", "key_proj.", "out_proj."), "visual"),
}


def network_config(network: State, source: str | Path = "the state dict") -> tuple[ModelConfig, int]:
    """The config and the number of classes K, guessed from weights that do not carry them (named as in `COMBO`).

    A missing or damaged tensor counts as its default, for `differences` to report. So does what shapes do not show:
    audio_queries, fusion_residual, and which of "add", "all" and "none" `queries` is. Raises `BadInput` for weights
    without a known backbone, or of impossible sizes.
    """

    def size(key: str, axis: int, default: int) -> int:
        return network[key].shape[axis] if key in network and network[key].ndim > axis else default

    def count(layers: str, default: int) -> int:
        numbers = [int(found[1]) for key in network if (found := re.match(rf"{re.escape(layers)}\.(\d+)\.", key))]
        return max(numbers) + 1 if numbers else default

    def kind(prefix: str, table: dict[str, str], default: str | None) -> str | None:
        found = (value for start, value in table.items() if any(key.startswith(prefix + start) for key in network))
        return next(found, default)

    backbone = kind("siam_encoder.image_backbone.", BACKBONES, None)
    if backbone is None:
        raise BadInput(f"{source} holds no COMBO network: none of its keys belongs to a known image backbone")
    d = ModelConfig()
    width = size("decoder.query_embed.weight", 1, d.width)
    values: dict[str, Any] = {
        "backbone": backbone,
        "siam": kind("siam_encoder.", {"maskige_backbone.": "separate", "gates.": "shared"}, "none"),
        "fusion": kind("fusion.", FUSIONS, "none"),
        "queries": "dim" if size("audio_mlp.4.weight", 0, width) * 2 == width else "add",
        "num_queries": size("decoder.query_embed.weight", 0, d.num_queries),
        "width": width,
        "mask_dim": None if (mask_dim := size("decoder.mask_embed.4.weight", 0, width)) == width else mask_dim,
        "audio_dim": size("audio_mlp.0.weight", 1, d.audio_dim),
        "audio_hidden": size("audio_mlp.0.weight", 0, d.audio_hidden),
        "heads": size("pixel_decoder.layers.0.self_attn.sampling_offsets.weight", 0, d.heads * 6 * POINTS)
        // (6 * POINTS),  # x and y on three levels
        "encoder_layers": count("pixel_decoder.layers", d.encoder_layers),
        "encoder_ffn": size("pixel_decoder.layers.0.linear1.weight", 0, d.encoder_ffn),
        "decoder_layers": count("decoder.layers", d.decoder_layers),
        "decoder_ffn": size("decoder.layers.0.linear1.weight", 0, d.decoder_ffn),
    }
    return _validated(values, source), size("decoder.class_embed.weight", 0, 3) - 1


def network_metadata(
    config: ModelConfig, num_classes: int, metrics: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, str]:
    """Safetensors metadata that `read_header` reads: the config, K, and JSON values that `more` adds.

    metrics: of a run's best weights. It is one entry in either case: safetensors writes several in random order, and
    equal weights are to be equal bytes.
    """
    header = {"config": config.model_dump(mode="json"), "num_classes": num_classes, **more}
    if metrics is not None:
        return {METRICS: json.dumps({**metrics, HEADER: header})}
    return {HEADER: json.dumps(header, sort_keys=True)}


def read_metrics(path: Path) -> dict[str, Any]:
    """The `metrics` of `network_metadata`. Raises SafetensorError, KeyError or ValueError for any other file."""
    with safe_open(path, "pt") as file:
        metrics = json.loads((file.metadata() or {})[METRICS])
    return {key: value for key, value in metrics.items() if key != HEADER}


def read_header(path: Path) -> dict[str, Any] | None:
    """What `network_metadata` wrote, "config" as `ModelConfig`; None for weights that carry no config.

    Raises `BadInput` for a file that is damaged, or whose config this version does not know.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        header = json.loads(metadata.get(HEADER, "null")) or json.loads(metadata.get(METRICS, "{}")).get(HEADER)
        if header is None:
            return None
        return {**header, "config": _validated(header["config"], path), "num_classes": int(header["num_classes"])}
    except OSError as error:
        raise BadInput(f"cannot read the weights {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is damaged, or its metadata are not of this package: {error}") from error


def load_network(path: Path) -> COMBO:
    """The network of weights that carry their config, on the CPU, in eval mode. Raises `BadInput` for other files."""
    header = read_header(path)
    if header is None:
        raise BadInput(f"{path} does not say which network it is of; make one that does with 'combo weights convert'")
    model = COMBO(header["config"], header["num_classes"])
    load_weights(model, read_state_dict(path), path)
    return model.eval()


def _validated(values: dict[str, Any], source: str | Path) -> ModelConfig:
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" for e in error.errors()]
        raise BadInput.listing(f"{source} is of a network that cannot be built:", problems) from error
