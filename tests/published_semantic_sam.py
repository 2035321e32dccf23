"""Semantic-SAM with rule-made weights, as the fixtures have them, and the arrays that the published code gave.

A value of the rule is base + scale * u: u a hash of the parameter's published name, a salt and the value's place.
"""

import functools
import math
import re
import zlib
from typing import NamedTuple

import numpy as np
import pytest
import torch
from golden import load_arrays, load_json
from torch import Tensor

from combo_avs.model.foundation.semantic_sam.network import SIZES, SemanticSam, Sizes, from_published
from combo_avs.model.weights.state import load_weights

FOLDER = "semantic_sam"
MODELS = {
    "T": SIZES["semantic-sam-t"],
    "L": SIZES["semantic-sam-l"],
    "S": Sizes(24, 1, (2, 2, 2, 2), 7, width=64, layers=2, decoder_layers=2, ffn=128),
}
BOX_HEAD = re.compile(r"predictor\.(decoder\.bbox_embed\.\d+|bbox_embed\.\d+)\.")
NORM = re.compile(r"norm\d*\.(weight|bias)|input_proj\.\d+\.1\.(weight|bias)")
SPECIAL = [  # end of the name: base, scale
    ("relative_position_bias_table", 0.0, 0.5),
    ("class_embed", 0.0, 0.02),
    ("class_embed_part", 0.0, 0.02),
    ("lang_mapper", 0.0, 0.02),
    ("mask_tokens.weight", 0.0, 3.0),
    ("label_enc.weight", 0.0, 0.5),
    ("pb_embedding.weight", 0.0, 0.5),
    ("level_embed", 0.0, 0.5),
    ("sampling_offsets.bias", 0.0, 2.0),
    ("_bbox_embed.layers.2.bias", [0.0, 0.0, 0.5, 0.5], 0.1),
    ("iou_prediction_head.layers.2.bias", 0.88, 0.0),
    ("pixel_decoder.mask_features.bias", 0.1, 0.1),
    ("mask_embed.layers.2.bias", -2.4, 0.4),
    ("bias", 0.0, 0.1),
]
GAINS = [  # of matrices, else 1
    (r"backbone\..*(attn\.proj|mlp\.fc2)\.weight", 0.5),
    (r".*_bbox_embed\.layers\.2\.weight", 0.5),
    (r".*mask_embed\.layers\.2\.weight", 12.0),
    (r".*ref_point_head\.layers\.1\.weight", 3.0),
    (r".*predictor\..*cross_attn\.output_proj\.weight", 3.0),
]


def _uniform(name: str, salt: int, count: int) -> np.ndarray:
    """float64 in [-1, 1)."""
    place = np.arange(count, dtype=np.uint32)  # arithmetic is modulo 2 ** 32
    x = place * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(f"{name}|{salt}".encode()))
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (x ^ (x >> np.uint32(16))) / 2.0**31 - 1.0


def _base_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float | list[float], float]:
    if NORM.search(name):
        return (1.0 if name.endswith("weight") else 0.0), 0.1
    for ending, base, scale in SPECIAL:
        if name.endswith(ending):
            return base, scale
    gain = next((gain for pattern, gain in GAINS if re.fullmatch(pattern, name)), 1.0)
    return 0.0, gain * math.sqrt(3.0 / math.prod(shape[1:]))


def rule_value(key: str, shape: tuple[int, ...], salt: int) -> np.ndarray:
    """float32: the parameter that the published network calls `key`."""
    name = BOX_HEAD.sub("predictor._bbox_embed.", key).replace("predictor.decoder.norm.", "predictor.decoder_norm.")
    base, scale = _base_and_scale(name, shape)
    values = _uniform(name, salt, math.prod(shape)).reshape(shape) * scale + np.asarray(base)
    if name.endswith("pixel_decoder.mask_features.weight"):
        values -= values.mean(axis=1, keepdims=True)
    return values.astype(np.float32)


def salt_of(model: str) -> int:
    return load_json(FOLDER, "weights_check")[model]["salt"]


def published_entries(model: str) -> list[dict]:
    """Every key of the published state dict: key, checkpoint_key, shape, kind, used ..."""
    return load_json(FOLDER, f"params_{model}")["entries"]


def published_state(model: str) -> dict[str, Tensor]:
    """A checkpoint such as the published ones; integer tables are left out, as the rule has none for them."""
    entries = [e for e in published_entries(model) if e["kind"] != "buffer"]
    salt = salt_of(model)
    return {e["checkpoint_key"]: torch.from_numpy(rule_value(e["key"], tuple(e["shape"]), salt)) for e in entries}


@functools.lru_cache(maxsize=2)
def published_network(model: str) -> SemanticSam:
    network = SemanticSam(MODELS[model]).eval().requires_grad_(False)
    name = next((name for name, sizes in SIZES.items() if sizes == MODELS[model]), "semantic-sam-s")
    load_weights(network, from_published(published_state(model), name), f"the rule for {model}")
    return network


class Fixture(NamedTuple):
    """Arrays that the published model gave: those of file `name` whose keys start with `prefix`."""

    model: str
    name: str
    prefix: str = ""

    def array(self, key: str) -> np.ndarray:
        return load_arrays(FOLDER, self.name)[self.prefix + key]

    def keys(self) -> set[str]:
        keys = {re.sub(r"\.(shape|stats|idx|val)$", "", key) for key in load_arrays(FOLDER, self.name)}
        return {key.removeprefix(self.prefix) for key in keys if key.startswith(self.prefix)}

    def check(self, key: str, found: Tensor, tolerance: float) -> None:
        """Shape and values, all or those at the places that the file has."""
        arrays = load_arrays(FOLDER, self.name)
        key = self.prefix + key
        assert list(found.shape) == arrays[key + ".shape"].tolist(), key
        values = found.double().flatten()
        if key in arrays:
            expected = arrays[key].reshape(-1)
        else:
            values, expected = values[torch.from_numpy(arrays[key + ".idx"]).long()], arrays[key + ".val"]
        assert (values - torch.from_numpy(expected).double()).abs().max() <= tolerance, key


def parts(alone: list[str], whole: list[str], prefix: str) -> list[Fixture]:
    """Fixtures of one part of the network: files of it alone, and its arrays in files that hold all parts."""
    return [Fixture(n[0].upper(), n) for n in alone] + [Fixture(n[0].upper(), n, prefix) for n in whole]


def cases(found: list[Fixture], quick: set[str] = frozenset({"S", "T"})) -> list:
    """For parametrisation; those of a model, or of model and prefix, that is not quick are slow."""
    marks = [() if {f.model, f.model + f.prefix} & quick else pytest.mark.slow for f in found]
    return [
        pytest.param(f, marks=mark, id=f"{f.name} {f.prefix}".strip()) for f, mark in zip(found, marks, strict=True)
    ]


def unpacked(bits: np.ndarray, size: tuple[int, int]) -> Tensor:
    """bool [K, H, W] of packed rows."""
    masks = np.unpackbits(bits, axis=1)[:, : size[0] * size[1]].reshape(len(bits), *size)
    return torch.from_numpy(masks.astype(bool))


def images(model: str) -> list[Tensor]:
    """The frames of a model: uint8 [H, W, 3]."""
    arrays = load_arrays(FOLDER, "inputs")
    return [torch.from_numpy(a).permute(1, 2, 0) for key, a in arrays.items() if key.startswith(f"image_{model}_")]


def image_of(model: str, size: tuple[int, int]) -> Tensor:
    """The model's frame of this height and width."""
    return next(image for image in images(model) if image.shape[:2] == tuple(size))
