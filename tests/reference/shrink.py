"""The small set of golden fixtures, which the repository carries, from the whole set.

    python tests/reference/shrink.py ../shared/reference tests/reference

What is small is copied; arrays that a test may compare in part are sampled, with the values as they are: no tolerance
changes. The same input makes the same bytes. `manifest.json` names the files of both sets with their SHA-256.
"""

import argparse
import hashlib
import json
import shutil
import zlib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]

FOLDERS = ("audio", "combo", "metrics", "sam", "semantic_sam")
ENDINGS = {".json", ".npz", ".pkl", ".png", ".wav"}
PLACES = 4096  # of an array that is sampled

LEFT_OUT = (
    "audio/wav/real_*",  # recordings of others
    "audio/wav/mono16k_10s.wav",
    "audio/wav/stereo16k_5s.wav",
    "combo/full_head_avss_mixed.*",
    "combo/full_head_s4_b1.*",
    "combo/full_real_pvt_*",
    "combo/full_real_r50_avss_*",
    "sam/*_B.*",
    "sam/vitb_lowres_*",
    "semantic_sam/l_*",
)


def left_out(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in LEFT_OUT)


def places(key: str, size: int) -> np.ndarray:
    """`PLACES` flat positions below `size`, in order, none twice."""
    return np.sort(np.random.RandomState(zlib.crc32(key.encode())).permutation(size)[:PLACES]).astype(np.int32)


def of_kept_sounds(arrays: Arrays) -> Arrays:
    """The arrays of the sounds whose files are kept; their keys start with the sound's name."""
    return {k: a for k, a in arrays.items() if not left_out(f"audio/wav/{k.split('/')[0]}.wav")}


def sampled_outputs(arrays: Arrays) -> Arrays:
    """COMBO's networks: `out.KEY` at the places `pos.KEY`; without `sem_seg`, which no test of networks reads."""
    small = {}
    for key, array in arrays.items():
        kind, name = key.split(".", 1)
        if name == "sem_seg" or kind == "pos":
            continue
        if kind != "out" or array.size <= PLACES:
            small[key] = array
            small |= {f"pos.{name}": arrays[f"pos.{name}"]} if f"pos.{name}" in arrays and kind == "out" else {}
            continue
        chosen = places(key, array.size)
        before = arrays.get(f"pos.{name}", np.arange(array.size, dtype=np.int32))
        small |= {key: array.reshape(-1)[chosen], f"pos.{name}": before[chosen]}
    return small


def sampled_entries(arrays: Arrays) -> Arrays:
    """Semantic-SAM's networks: `KEY` as `KEY.val` at the places `KEY.idx`."""
    small = {}
    for key, array in arrays.items():
        if array.dtype.kind != "f" or array.size <= PLACES or key.startswith("pos_") or key.endswith(".val"):
            small[key] = array
            continue
        chosen = places(key, array.size)
        small |= {f"{key}.idx": chosen, f"{key}.val": array.reshape(-1)[chosen]}
    return small


def fourth_pixels(arrays: Arrays) -> Arrays:
    """SAM's low-resolution logits: every fourth row and column."""
    return {**arrays, "low": arrays["low"][..., ::4, ::4], "stride": np.array(4)}


def without_large_model(arrays: Arrays) -> Arrays:
    return {k: a for k, a in arrays.items() if not k.startswith("image_L_")}


SHRINK: dict[str, Callable[[Arrays], Arrays]] = {
    "audio/*.npz": of_kept_sounds,
    "combo/full_*.npz": sampled_outputs,
    "sam/*_lowres_*.npz": fourth_pixels,
    "semantic_sam/inputs.npz": without_large_model,
    "semantic_sam/?_backbone.npz": sampled_entries,
    "semantic_sam/?_decoder.npz": sampled_entries,
    "semantic_sam/?_pixel_decoder.npz": sampled_entries,
}


def write_small(source: Path, target: Path, name: str) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    shrink = next((shrink for pattern, shrink in SHRINK.items() if fnmatch(name, pattern)), None)
    if name == "audio/expected.json":
        entries = json.loads((source / name).read_text())
        kept = {k: entry for k, entry in entries.items() if not left_out(f"audio/wav/{k}.wav")}
        (target / name).write_text(json.dumps(kept, indent=1) + "\n")
    elif shrink is not None:
        with np.load(source / name) as archive:
            np.savez_compressed(target / name, **shrink(dict(archive)))
    else:
        shutil.copyfile(source / name, target / name)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("whole", type=Path, help="the folder that holds " + ", ".join(FOLDERS))
    parser.add_argument("small", type=Path, help="where the small set goes")
    args = parser.parse_args()
    files = (path for folder in FOLDERS for path in (args.whole / folder).rglob("*") if path.suffix in ENDINGS)
    names = sorted(path.relative_to(args.whole).as_posix() for path in files)
    for folder in FOLDERS:
        shutil.rmtree(args.small / folder, ignore_errors=True)
    kept = [name for name in names if not left_out(name)]
    for name in kept:
        write_small(args.whole, args.small, name)
    manifest = {
        "small": {name: sha256(args.small / name) for name in kept},
        "whole": {name: sha256(args.whole / name) for name in names},
    }
    (args.small / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    size = sum((args.small / name).stat().st_size for name in kept)
    print(f"{len(kept)} of {len(names)} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
