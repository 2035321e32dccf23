"""Golden fixtures: what the published systems returned for weights and inputs that follow a rule.

They are read from the folder that COMBO_REFERENCE names, and from no other. If it names none: from `shared/reference`
beside the checkout, which may hold the whole set, else from tests/reference, which holds a small one.
Weights that a fixture does not ship follow a rule: a hash of the salt and the published key name.
"""

import functools
import json
import os
import zlib
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SMALL_SET = ROOT / "tests" / "reference"
FOLDERS = ("audio", "combo", "metrics", "sam", "semantic_sam")


def whole_set() -> Path | None:
    """The folder of the whole set, if there is one."""
    named = os.environ.get("COMBO_REFERENCE")
    folder = Path(named).resolve() if named else ROOT.parent / "shared" / "reference"
    if named and not any((folder / kind).is_dir() for kind in FOLDERS):
        raise FileNotFoundError(f"COMBO_REFERENCE={named}: holds none of the folders {', '.join(FOLDERS)}")
    return folder if folder.is_dir() else None


def reference_folders(kind: str) -> list[Path]:
    """Folders that hold fixtures of one kind (combo, audio, metrics, ...), in the order they are searched."""
    whole = whole_set()
    roots = [SMALL_SET] if whole is None else [whole] if os.environ.get("COMBO_REFERENCE") else [whole, SMALL_SET]
    return [r / kind for r in roots if (r / kind).is_dir()]


def reference_file(kind: str, name: str) -> Path:
    for folder in reference_folders(kind):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no fixture {kind}/{name} in {[str(f) for f in reference_folders(kind)]}")


def fixtures(kind: str, pattern: str) -> list[str]:
    """Names (without ending) of the fixtures whose file matches `pattern`, for parametrisation."""
    return sorted({p.stem for folder in reference_folders(kind) for p in folder.glob(pattern)})


@functools.cache
def load_json(kind: str, name: str) -> dict:
    return json.loads(reference_file(kind, name + ".json").read_text())


def load_arrays(kind: str, name: str) -> dict[str, np.ndarray]:
    with np.load(reference_file(kind, name + ".npz")) as archive:
        return dict(archive)


def uniform(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """float64 in [-1, 1): NumPy's frozen legacy stream, seeded by crc32 of `salt|name`."""
    seed = zlib.crc32(f"{salt}|{name}".encode())
    size = int(np.prod(shape, dtype=np.int64))
    return (2.0 * np.random.RandomState(seed).random_sample(size) - 1.0).reshape(shape)


_EMBEDDINGS = ("level_embed", "level_embed.weight", "audio_pos.weight", "query_feat.weight", "query_embed.weight")


def rule_parameter(key: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """The rule-made value of the parameter or buffer that the published state dict calls `key`."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    x = uniform(key, shape, salt)
    if leaf == "running_var":
        x = 1.0 + 0.2 * x
    elif leaf == "running_mean":
        x = 0.1 * x
    elif "gamma" in key:
        x = 0.5 + 0.25 * x
    elif key.endswith(_EMBEDDINGS):
        x = 0.5 * x
    elif key.endswith("sampling_offsets.bias"):
        x = 3.0 * x
    elif len(shape) >= 2:
        x = x * np.sqrt(3.0 / np.prod(shape[1:]))
    elif leaf == "weight":
        x = 1.0 + 0.2 * x
    elif leaf.endswith("bias"):
        x = 0.1 * x
    else:
        x = 0.5 + 0.25 * x
    return x.astype(np.float32)


def rule_image(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """uint8, uniform over 0..255."""
    return np.floor((uniform(name, shape, salt) + 1.0) * 128.0).astype(np.uint8)


def rule_positions(name: str, numel: int, count: int, salt: str) -> np.ndarray:
    """`count` flat C-order positions below `numel`, with replacement."""
    return np.floor((uniform(name + ":pos", (count,), salt) + 1.0) * 0.5 * numel).astype(np.int64)
