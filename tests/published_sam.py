"""Weights made by rule for the published state dicts of SAM and MobileSAM, and the fixtures made with them.

The k-th value of an entry is an integer hash of its key, the set's phase and k. Scales keep activations near 1 and let
a click give a compact region, so that default thresholds keep a few dozen masks.
"""

import math
import zlib
from pathlib import Path

import numpy as np
import torch
from golden import load_arrays, load_json, reference_file
from PIL import Image

PUBLISHED = {
    "mobile": "mobile_sam",
    "vitb": "sam_vit_b",
    "vitl": "sam_vit_l",
    "vith": "sam_vit_h",
}
SQRT3 = math.sqrt(3)  # times a uniform number in -1..1: variance 1


def _scramble(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def uniform(key: str, shape: tuple[int, ...], phase: int) -> np.ndarray:
    """float64 in -1..1."""
    seed = np.uint32((zlib.crc32(key.encode()) + 0x9E3779B9 * phase) & 0xFFFFFFFF)
    count = np.arange(math.prod(shape), dtype=np.uint32)
    hashed = _scramble(_scramble(count ^ seed) + seed)
    return ((hashed + 0.5) / 2**31 - 1).reshape(shape)


def _fold(rows: int, columns: int) -> np.ndarray:
    n = min(rows, columns)
    return (np.arange(rows)[:, None] % n == np.arange(columns) % n).astype(np.float64)


def _signs(n: int, phase: int) -> np.ndarray:
    """±1 with period 32, 16 of each."""
    order = uniform("marker", (32,), phase).argsort().argsort()
    return np.where(order < 16, -1.0, 1.0)[np.arange(n) % 32]


def _vector(key: str, u: np.ndarray, phase: int) -> np.ndarray:
    """Biases, norms and their statistics."""
    leaf = key.rsplit(".", 1)[1]
    if leaf == "running_mean":
        return 0.1 * u
    if leaf == "running_var":
        return 1 + 0.3 * u
    if leaf == "bias":
        if "output_hypernetworks_mlps" in key and ".layers.2." in key:
            return 40 * (-0.95 + 0.1 * u + _signs(32, phase))
        return 0.9 + 0.02 * u if "iou_prediction_head.layers.2." in key else 0.1 * u
    scale = 1.0
    if key == "image_encoder.neck.3.weight":
        scale = 0.2
    elif key.startswith("mask_decoder.") and ".norm1." in key:
        scale = 0.5
    elif key.startswith("mask_decoder.") and ".norm3." in key:
        scale = 0.3
    elif key.startswith("image_encoder.") and ".blocks." in key and key.endswith("conv3.bn.weight"):
        scale = 0.5
    return scale * (1 + 0.2 * u)


def _upscaling(key: str, u: np.ndarray, phase: int) -> np.ndarray:
    inward, outward = u.shape[:2]
    base = uniform(key + "#base", (inward, outward), phase)[:, :, None, None]
    near = SQRT3 * (0.3 * base + 0.03 * u) / math.sqrt(outward)
    return math.sqrt(outward / inward) * (_fold(inward, outward)[:, :, None, None] + near)


def _attention(key: str, normal: np.ndarray) -> np.ndarray:
    sharp = 3 * _fold(*normal.shape) + 0.3 * normal
    if "q_proj" in key or "k_proj" in key:
        return sharp
    if ".self_attn." in key:
        return _fold(*normal.shape) + 0.3 * normal
    gain = 5 if "image_to_token" in key else 3
    return gain * (0.5 * _fold(*normal.shape) + 0.3 * normal)


def _matrix(key: str, u: np.ndarray) -> np.ndarray:
    encoder = key.startswith("image_encoder.")
    if encoder and u.ndim == 4 and u.shape[2] == 3:  # kernels with a heavy centre
        kernel = np.full((3, 3), 0.3)
        kernel[1, 1] = 1
        u = u * kernel * 3 / np.sqrt((kernel**2).sum())
    normal = SQRT3 * u / math.sqrt(math.prod(u.shape[1:]))
    if key.startswith("mask_decoder.transformer"):
        return 0.5 * normal if ".mlp." in key else _attention(key, normal)
    if "output_hypernetworks_mlps" in key:
        value = _fold(*u.shape) * min(1, u.shape[0] / u.shape[1]) ** 0.5 + 0.3 * normal
        return 12 * (value - value.mean(0)) if ".layers.2." in key else value
    if "iou_prediction_head.layers.2." in key:
        return 0.08 * normal
    halved = any(part in key for part in (".mlp.fc2.", ".mlp.lin2.", ".attn.proj."))
    return 0.5 * normal if encoder and halved else normal


def rule_value(key: str, shape: tuple[int, ...], phase: int) -> np.ndarray:
    """The value of one entry of a published state dict: float32, or int64 zeros."""
    leaf = key.rsplit(".", 1)[1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    u = uniform(key, shape, phase)
    if leaf == "attention_biases":
        value = u
    elif leaf == "positional_encoding_gaussian_matrix":
        value = 0.3 * SQRT3 * u
    elif leaf in ("pos_embed", "rel_pos_h", "rel_pos_w"):
        value = 0.2 * u
    elif leaf in ("running_mean", "running_var", "bias") or u.ndim == 1:
        value = _vector(key, u, phase)
    elif key == "prompt_encoder.point_embeddings.1.weight":
        value = 2 * _signs(256, phase) + 0.3 * u
    elif u.ndim == 2 and len(u) <= 4 and ".layers." not in key:
        value = u if key.startswith("mask_decoder.") else 0.5 * u
    elif key.startswith("mask_decoder.output_upscaling"):
        value = _upscaling(key, u, phase)
    else:
        value = _matrix(key, u)
    return value.astype(np.float32)


def set_phase() -> int:
    return load_json("sam", "set")["phase"]


def rule_state(network: str) -> dict[str, torch.Tensor]:
    """The whole state dict of "mobile" or "vitb", with the entries that the set ships."""
    shapes = load_json("sam", f"{PUBLISHED[network]}_params")
    state = {key: torch.from_numpy(rule_value(key, tuple(shape), set_phase())) for key, shape in shapes.items()}
    shipped = load_arrays("sam", f"override_{network}")
    return state | {key: torch.from_numpy(value) for key, value in shipped.items()}


def rule_file(network: str, folder: Path) -> Path:
    """A checkpoint as published, with these weights."""
    path = folder / f"{network}.pth"
    torch.save(rule_state(network), path)
    return path


def fixture_frame(name: str) -> torch.Tensor:
    """Frame "A" or "B": uint8 [1, H, W, 3]."""
    with Image.open(reference_file("sam", f"image_{name}.png")) as image:
        return torch.from_numpy(np.array(image.convert("RGB")))[None]
