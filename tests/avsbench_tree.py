"""Small AVSBench folders in the three published layouts."""

import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from combo_avs.data.sources.avsbench.labels import voc_palette

SIZE = 16
CLASSES = ("background", *(f"class-{k}" for k in range(1, 71)))


def picture(path: Path, seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def sound(path: Path, seconds: float = 5.0, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(np.arange(int(seconds * 16_000))[:, None] * [0.1, 0.2])
    soundfile.write(path, wave, 16_000, subtype=subtype)


def mask(k: int) -> np.ndarray:
    """A binary mask of 0 and 255 with k + 1 sounding rows."""
    return np.repeat((np.arange(SIZE) <= k)[:, None], SIZE, axis=1).astype(np.uint8) * 255


def make_s4(root: Path, rows: list[tuple[str, str, str]]) -> Path:
    """rows: name, category, split. Gives the folder Single-source."""
    folder = root / "AVSBench_object" / "Single-source"
    for name, category, split in rows:
        place = Path(split, category)
        for k in range(1, 6):
            picture(folder / "s4_data/visual_frames" / place / name / f"{name}_{k}.png", k)
        for k in range(1, 2 if split == "train" else 6):
            save(folder / "s4_data/gt_masks" / place / name / f"{name}_{k}.png", mask(k))
        sound(folder / "s4_data/audio_wav" / place / f"{name}.wav")
    lines = ["name,start,category,split", *(f"{n},0,{c},{s}" for n, c, s in rows)]
    (folder / "s4_meta_data.csv").write_text("\n".join(lines) + "\n")
    return folder


def make_ms3(root: Path, rows: list[tuple[str, str]], header: str = "video_id,split\n") -> Path:
    """rows: id, split. Gives the folder Multi-sources."""
    folder = root / "AVSBench_object" / "Multi-sources"
    for name, split in rows:
        for k in range(1, 6):
            picture(folder / "ms3_data/visual_frames" / name / f"{name}.mp4_{k}.png", k)
            save(folder / "ms3_data/gt_masks" / split / name / f"{name}_{k}.png", mask(k))
        sound(folder / "ms3_data/audio_wav" / split / f"{name}.wav")
    (folder / "ms3_meta_data.csv").write_text(header + "".join(f"{n},{s}\n" for n, s in rows))
    return folder


def index_map(k: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 71, size, dtype=np.uint8)


def make_avss(
    root: Path,
    rows: list[tuple[str, str, str, str]],
    size: tuple[int, int] = (20, 31),
    coding: str = "semantic",
) -> Path:
    """rows: uid, objects, split, label. Gives the folder AVSBench_semantic."""
    folder = root / "AVSBench_semantic"
    for uid, _, split, label in rows:
        home, seconds = folder / label / uid, 10 if label == "v2" else 5
        for k in range(seconds):
            picture(home / f"frames/{k}.jpg", k, size)
        for k in range(1 if (label, split) == ("v1s", "train") else seconds):
            index = index_map(k, size)
            pixels = index if coding == "semantic" else voc_palette(71)[index]
            save(home / f"labels_{coding}/{k}.png", pixels)
        sound(home / "audio.wav", seconds)
    vid = [uid if label == "v1m" else uid[:11] for uid, _, _, label in rows]
    lines = [f"{v},{u},0,0,{o},{s},{la}" for v, (u, o, s, la) in zip(vid, rows, strict=True)]
    (folder / "metadata.csv").write_text("\n".join(["vid,uid,s_min,s_sec,a_obj,split,label", *lines]))
    (folder / "label2idx.json").write_text(json.dumps({name: k + 1 for k, name in enumerate(CLASSES)}))
    return folder


S4_ROWS = [
    ("-aaaaaaaaaa", "dog_barking", "train"),
    ("_bbbbbbbbb_", "dog_barking", "val"),
    ("ccccccccccc", "race_car", "test"),
]
MS3_ROWS = [
    ("_aaaaaaaaaa", "train"),
    ("bbbbbbbbb_b_3", "val"),
    ("baby_dog_2_1", "test"),
    ("bbbbbbbbb_b_12", "train"),
]
AVSS_ROWS = [
    ("_aaaaaaaaaa_3000_8000", "h orse", "train", "v1s"),
    ("-bbbbbbbbbb_0_5000", "dog", "val", "v1s"),
    ("cccccccc_cc_1", "background", "train", "v1m"),
    ("ddddddddddd_68000_78000", "man_off-the-screen_guitar", "test", "v2"),
    ("eeeeeeeeeee_0_10000", "emergency-car", "train", "v2"),
]
