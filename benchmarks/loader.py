"""Clips per second and core: our store against the published files. Writes JSON and a Markdown table.

    python benchmarks/loader.py --clips 40 --steps 6 --out build/bench/loader

Makes synthetic clips of 224 x 224 as a store with caches and, of the same clips, the files that the published code
reads: frames as PNG (AVSS: JPEG), label PNGs, Maskige PNGs with a palette, a pickle with the log-mel. Then reads all
clips both ways in turns, on one core, from the page cache, with and without augmentation. Files are augmented as
published, image by image with whole resizes and colours in floating point, which gives the same bytes. The time is that
of the processor. With `--steps` it also trains, and tells which share of the time the step waits for its batch.
"""

import argparse
import json
import pickle
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from combo_avs.data.augment import AugmentConfig, Jitter, augment, draw
from combo_avs.data.dataset import ClipDataset, prefetch, train_batch
from combo_avs.data.palette import PALETTE
from combo_avs.data.resize import resize
from combo_avs.data.sources.synthetic.source import Flavour, SyntheticSource
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.train.step import make_trainer, train_step

FLAVOURS: tuple[Flavour, ...] = ("s4", "ms3", "avss")
CACHES = ("felzenszwalb", "logmel")
# The rank of every colour of a Maskige, by its bytes as one number.
RANKS = {int.from_bytes(colour.tobytes(), "big"): rank for rank, colour in reversed(list(enumerate(PALETTE)))}
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # frames, Maskiges, labels, sound


def prepare(folder: Path, flavour: Flavour, clips: int) -> tuple[ClipDataset, list[Path]]:
    """The training clips as a store, and as a folder of files for each; made once."""
    root, tree = folder / flavour / "root", folder / flavour / "files"
    if not (root / "clips.zarr").exists():
        import_clips(SyntheticSource(flavour, clips, seed=0, size=224), root)
    run_plans(plan_caches(root, PrecomputeConfig(), *CACHES), workers=0, scheduler=None)
    dataset = open_dataset(root)
    homes = [tree / dataset.clip(i).id for i in range(len(dataset))]
    for index, home in enumerate(homes):
        if not (home / "audio.pkl").exists():
            write_files(dataset, index, home)
    return dataset, homes


def open_dataset(root: Path) -> ClipDataset:
    clips = ClipStore(root)
    proposals, audio = open_cache(clips, "proposals", CACHES[0]), open_cache(clips, "audio", CACHES[1])
    return ClipDataset(clips, proposals, audio, "train")


def write_files(dataset: ClipDataset, index: int, home: Path) -> None:
    """One clip as the published code stores it."""
    sample = dataset[index]
    home.mkdir(parents=True, exist_ok=True)
    binary = len(dataset.clips.classes) == 2
    for k, (frame, label, maskige) in enumerate(zip(sample.frames, sample.labels, sample.maskiges, strict=True)):
        Image.fromarray(frame).save(home / (f"frame-{k}.png" if binary else f"frame-{k}.jpg"))
        if sample.supervised[k]:
            Image.fromarray(label * 255 if binary else label).save(home / f"label-{k}.png")
        colours, places = np.unique(maskige @ np.array([1 << 16, 1 << 8, 1]), return_inverse=True)
        ranks = np.array([RANKS[int(colour)] for colour in colours], np.uint8)[places]
        paletted = Image.fromarray(ranks.reshape(label.shape), mode="P")
        paletted.putpalette(PALETTE.tobytes())
        paletted.save(home / f"maskige-{k}.png")
    log_mel = dataset.clips.read("log_mel", *dataset.clips.span(int(dataset.rows[index])))
    (home / "audio.pkl").write_bytes(pickle.dumps(log_mel[:, None]))


def read_files(home: Path, binary: bool) -> Arrays:
    """One clip the published way."""
    frames = np.stack([np.array(Image.open(p).convert("RGB")) for p in sorted(home.glob("frame-*"))])
    maskiges = np.stack([np.array(Image.open(p).convert("RGB")) for p in sorted(home.glob("maskige-*"))])
    labels = np.full(frames.shape[:3], 255, np.uint8)
    for path in home.glob("label-*"):
        label = np.array(Image.open(path))
        labels[int(path.stem.removeprefix("label-"))] = label // 255 if binary else label
    return frames, maskiges, labels, pickle.loads((home / "audio.pkl").read_bytes())  # noqa: S301, written above


def read_store(dataset: ClipDataset, index: int) -> Arrays:
    sample = dataset[index]
    return sample.frames, sample.maskiges, sample.labels, sample.features


def plain_augment(
    frames: np.ndarray, maskiges: np.ndarray, labels: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`augment` as published: the same bytes."""
    drawn = draw(config, len(frames), labels.shape[1:], rng)
    top, left, height, width = drawn.geometry.crop

    def images(images: np.ndarray, jitters: tuple[Jitter, ...], nearest: bool, fill: int) -> np.ndarray:
        done = []
        for i, image in enumerate(images):
            image = resize(image, drawn.geometry.resized, nearest=nearest)[top : top + height, left : left + width]
            image = plain_jitter(image, jitters[i]) if jitters else image
            image = image[:, ::-1] if drawn.geometry.flip else image
            missing = [(0, whole - n) for whole, n in zip(images.shape[1:3], image.shape, strict=False)]
            done.append(np.pad(image, missing + [(0, 0)] * (image.ndim - 2), constant_values=fill))
        return np.stack(done)

    pictures = images(frames, drawn.frames, False, 128), images(maskiges, drawn.maskiges, False, 128)
    return *pictures, images(labels, (), True, 255)


def plain_jitter(image: np.ndarray, jitter: Jitter) -> np.ndarray:
    def linear(x: np.ndarray, factor: float, shift: float) -> np.ndarray:
        return np.clip(x.astype(np.float32) * np.float32(factor) + np.float32(shift), 0, 255).astype(np.uint8)

    if jitter.brightness is not None:
        image = linear(image, 1, jitter.brightness)
    if jitter.contrast is not None and jitter.contrast_first:
        image = linear(image, jitter.contrast, 0)
    if jitter.saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = linear(hsv[..., 1], jitter.saturation, 0)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if jitter.hue is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + jitter.hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if jitter.contrast is not None and not jitter.contrast_first:
        image = linear(image, jitter.contrast, 0)
    return image


def clips_per_second(
    read: Callable[[int], Arrays], augment_clip: Callable[..., object], count: int, config: AugmentConfig | None
) -> float:
    """Of processor time, all threads of the process together."""
    before = time.process_time()
    for index in range(count):
        frames, maskiges, labels, _ = read(index)
        if config is not None:
            augment_clip(frames, maskiges, labels, config, np.random.default_rng(index))
    return count / (time.process_time() - before)


def measure_loader(folder: Path, flavour: Flavour, clips: int, repeats: int) -> dict[str, Any]:
    dataset, homes = prepare(folder, flavour, clips)
    binary, count = len(dataset.clips.classes) == 2, len(dataset)
    ways = {
        "files": (lambda i: read_files(homes[i], binary), plain_augment),
        "store": (lambda i: read_store(dataset, i), augment),
    }
    augmentation = load_config(f"{flavour}-r50", []).augment
    for index in range(count):  # the same clips, but for what JPEG loses and AVSS files do not say
        one, two = (read(index) for read, _ in ways.values())
        assert np.array_equal(one[1], two[1])
        assert np.array_equal(one[2], two[2])
        both = (change(*two[:3], augmentation, np.random.default_rng(index)) for _, change in ways.values())
        assert all(np.array_equal(a, b) for a, b in zip(*both, strict=True))
    result: dict[str, Any] = {"clips": count}
    for name, config in (("plain", None), ("augmented", augmentation)):
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, (read, change) in ways.items():
                rates[way].append(clips_per_second(read, change, count, config))
        medians = {way: statistics.median(r) for way, r in rates.items()}
        result[name] = {**medians, "ratio": medians["store"] / medians["files"], "all": rates}
    return result


def waiting_share(folder: Path, steps: int, overrides: list[str]) -> dict[str, Any]:
    """Train on the MS3 clips with the R50 preset as `combo train` does, and time `next(batch)`."""
    dataset = open_dataset(folder / "ms3" / "root")
    dim = dataset.audio.dim
    config = load_config("ms3-r50", [f"model.audio_dim={dim}", *overrides])
    settings, trainer = config.train, make_trainer(config, 2, dim)
    make = partial(train_batch, dataset, settings.clips_per_batch, config.augment, 0)
    waited = []
    with closing(prefetch(make, range(steps + 1), threads=settings.loader_threads)) as batches:
        next(batches)  # by then the threads are under way
        begun = time.perf_counter()
        for step in range(1, steps + 1):
            start = time.perf_counter()
            batch = next(batches)
            waited.append(time.perf_counter() - start)
            float(train_step(trainer, batch, step)["total"])  # waits for the device
    seconds = time.perf_counter() - begun
    return {"clips_per_batch": settings.clips_per_batch, "seconds": seconds, "share": sum(waited) / seconds}


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| | files, clips/s | store, clips/s | ratio | files, augmented | store, augmented | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for flavour, r in result["loader"].items():
        cells = [f"{r[kind][key]:.3g}" for kind in ("plain", "augmented") for key in ("files", "store", "ratio")]
        lines.append(f"| {flavour} | {' | '.join(cells)} |")
    if "waiting" in result:
        w = result["waiting"]
        lines += ["", f"Waiting for data: {w['share']:.3%} of a step with {w['clips_per_batch']} clips."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=40, help="of each flavour, all splits together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="training steps for the share of waiting; 0: none")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, of those steps")
    parser.add_argument("--data", type=Path, default=Path("build/bench/data"), help="where clips are made and kept")
    parser.add_argument("--out", type=Path, default=Path("build/bench/loader"))
    args = parser.parse_args()
    result: dict[str, Any] = {
        "loader": {f: measure_loader(args.data, f, args.clips, args.repeats) for f in FLAVOURS},
    }
    if args.steps:
        result["waiting"] = waiting_share(args.data, args.steps, args.set)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "loader.json").write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"\nwrote {args.out / 'loader.json'}")


if __name__ == "__main__":
    main()
