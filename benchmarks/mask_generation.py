"""How fast the SAM generators segment everything, side by side with the segment-anything package on the same weights.

    python benchmarks/mask_generation.py --out results          # on the device there is, exact
    python benchmarks/mask_generation.py --device cuda --precision fp32 tf32 bf16 --batch 1 8 --out results

Weights are made by rule, so nothing is downloaded; `mobile-sam` and `sam-vit-b` keep a few dozen masks with them, and
speed hardly depends on more. What a precision does to masks must be measured with trained weights, not here.
Writes mask_generation.json and mask_generation.md. Seconds are medians per image; package and ours take turns. Where
other work shares the processor, `--threads 1` and the ratio of CPU seconds say most: threads that wait for each other
count as busy.
"""

import argparse
import copy
import json
import platform
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import skimage.data
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, automatic_mask_generator, sam_model_registry
from segment_anything.modeling import Sam

from combo_avs.model.foundation import everything, mask_candidates, mobile_sam, sam
from combo_avs.model.foundation.products import Precision
from combo_avs.model.foundation.resize_maps import SIDE

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from published_sam import rule_value

PHOTOS = (skimage.data.astronaut, skimage.data.coffee, skimage.data.chelsea, skimage.data.rocket)


class Case(NamedTuple):
    """One row of the tables: how the package's network is made, and ours from the same module."""

    untrained: Callable[[], Sam]
    network: Callable[[Sam, Any], sam.SamNetwork]


CASES = {
    "mobile-sam": Case(mobile_sam.mobile_sam, mobile_sam.tiny_vit_network),
    "sam-vit-b": Case(sam_model_registry["vit_b"], sam.vit_network),
    "sam-vit-l": Case(sam_model_registry["vit_l"], sam.vit_network),
    "sam-vit-h": Case(sam_model_registry["vit_h"], sam.vit_network),
}


def photos(height: int, width: int, count: int) -> torch.Tensor:
    """uint8 [count, height, width, 3]: the middle of photographs, resized."""
    frames = []
    for i in range(count):
        photo = PHOTOS[i % len(PHOTOS)]()
        h, w = photo.shape[:2]
        scale = min(h / height, w / width)
        box = ((w - width * scale) / 2, (h - height * scale) / 2, (w + width * scale) / 2, (h + height * scale) / 2)
        frames.append(np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC, box=box)))
    return torch.from_numpy(np.stack(frames))


@torch.no_grad()
def rule_made(case: Case, frame: torch.Tensor) -> Sam:
    """The package's network with weights by rule. What all pixels of `frame` have in common is taken off."""
    network = case.untrained().eval()
    network.image_encoder.img_size = SIDE  # the package's predictor asks for it
    state = {k: torch.from_numpy(rule_value(k, tuple(v.shape), 0)) for k, v in network.state_dict().items()}
    network.load_state_dict(state)
    features = network.image_encoder(sam.prepare_images(network, frame[None]))
    network.prompt_encoder.no_mask_embed.weight.copy_(-features.mean((0, 2, 3)))
    return network


@contextmanager
def watched(places: list[tuple[Any, str, str]], device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds spent in functions, each named by its owner, attribute and label; nested ones count for both.

    On a CPU these are CPU seconds, which other work on the machine does not change much.
    """
    clock = time.process_time if device.type == "cpu" else lambda: now(device)
    seconds: dict[str, float] = defaultdict(float)

    def wrap(function: Callable, label: str) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = clock()
            result = function(*args, **kwargs)
            seconds[label] += clock() - started
            return result

        return timed

    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in places]
    for owner, name, label in places:
        setattr(owner, name, wrap(getattr(owner, name), label))
    try:
        yield seconds
    finally:
        for owner, name, original in before:
            delattr(owner, name) if original is None else setattr(owner, name, original)


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Run(NamedTuple):
    seconds: float
    cpu_seconds: float
    memory: int  # bytes: the peak on the device, or of the whole process
    stages: dict[str, float]  # see `watched`
    result: Any


def timed(function: Callable[[], Any], places: list[tuple[Any, str, str]], device: torch.device) -> Run:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    with watched(places, device) as stages:
        started, cpu = now(device), time.process_time()
        result = function()
        seconds, cpu = now(device) - started, time.process_time() - cpu
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Run(seconds, cpu, torch.cuda.max_memory_allocated() if device.type == "cuda" else rss, stages, result)


def package_places(network: Sam, generator: SamAutomaticMaskGenerator) -> list[tuple[Any, str, str]]:
    return [
        (network.image_encoder, "forward", "encoder"),
        (network.mask_decoder.transformer, "forward", "decoder: transformer"),
        (network.mask_decoder.output_upscaling, "forward", "decoder: upscaling"),
        (network, "postprocess_masks", "resize of logits"),
        (automatic_mask_generator, "calculate_stability_score", "stability, boxes, NMS"),
        (automatic_mask_generator, "batched_mask_to_box", "stability, boxes, NMS"),
        (automatic_mask_generator, "batched_nms", "stability, boxes, NMS"),
        (automatic_mask_generator, "mask_to_rle_pytorch", "run-length code"),
    ]


def our_places(ours: everything.Everything) -> list[tuple[Any, str, str]]:
    return [
        (ours.network, "encoder", "encoder"),
        (ours.network, "prepare_image", "decoder: once per image"),
        (ours.network, "decode", "decoder: transformer"),
        (ours.network, "render", "decoder: upscaling"),
        (everything, "resize_logits", "resize of logits"),
        (mask_candidates, "stability_scores", "stability, boxes, NMS"),
        (everything, "mask_boxes", "stability, boxes, NMS"),
        (everything, "non_maximum_suppression", "stability, boxes, NMS"),
        (everything, "pack_bits", "packing"),
    ]


def pixels_off(ours: Any, records: list[dict]) -> int | str:
    """Pixels that differ between masks in order, or the two numbers of masks where these differ."""
    if len(ours.masks) != len(records):
        return f"{len(ours.masks)} masks, not {len(records)}"
    return sum(int((m.cpu().numpy() != r["segmentation"]).sum()) for m, r in zip(ours.masks, records, strict=True))


def measure(
    name: str, network: Sam, size: tuple[int, int], precision: Precision, batch: int, args: Any
) -> dict[str, Any]:
    """One row: medians over repeats that take turns, and the stages of the last run of each."""
    device = torch.device(args.device)
    frames = photos(*size, batch)
    config = sam.SamConfig(points_per_side=args.points, precision=precision, clicks_per_batch=args.clicks)
    ours = everything.Everything(name, CASES[name].network(copy.deepcopy(network), precision), config, None).to(device)
    package = SamAutomaticMaskGenerator(network.to(device), points_per_side=args.points)
    on_device, frame = frames.to(device), frames[0].numpy()
    ours(on_device[:1])  # constants of this size of frame are made once
    mine: list[Run] = []
    theirs: list[Run] = []
    on_cpu = device.type == "cpu"  # where looking at stages costs nothing; a GPU has to be waited for at each
    for watching in [on_cpu] * args.repeats + [True] * (not on_cpu):
        mine.append(timed(lambda: ours(on_device), our_places(ours) if watching else [], device))
        if not args.alone:
            places = package_places(network, package) if watching else []
            theirs.append(timed(lambda: package.generate(frame), places, device))
    row = {
        "generator": name,
        "height": size[0],
        "width": size[1],
        "precision": precision,
        "batch": batch,
        "masks": len(mine[0].result[0].masks),
        **{k: v if k == "memory" else v / batch for k, v in summary(mine[: args.repeats]).items()},
        "stages": {k: v / batch for k, v in mine[-1].stages.items()},
    }
    if theirs:
        row |= {f"package_{k}": v for k, v in summary(theirs[: args.repeats]).items()}
        row |= {"package_stages": theirs[-1].stages, "pixels_off": pixels_off(mine[0].result[0], theirs[0].result)}
    return row


def summary(runs: list[Run]) -> dict[str, float]:
    """Medians of the times, and the greatest peak."""
    return {
        "seconds": statistics.median(r.seconds for r in runs),
        "cpu_seconds": statistics.median(r.cpu_seconds for r in runs),
        "memory": max(r.memory for r in runs),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| generator | frame | precision | batch | package s | ours s | ratio | package CPU s | ours CPU s | ratio | "
        "masks | pixels off | package GB | ours GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        there = [r.get(f"package_{key}", float("nan")) for key in ("seconds", "cpu_seconds", "memory")]
        lines.append(
            f"| {r['generator']} | {r['height']}x{r['width']} | {r['precision']} | {r['batch']} | "
            f"{there[0]:.3f} | {r['seconds']:.3f} | {there[0] / r['seconds']:.1f} | "
            f"{there[1]:.1f} | {r['cpu_seconds']:.1f} | {there[1] / r['cpu_seconds']:.1f} | {r['masks']} | "
            f"{r.get('pixels_off', '')} | {there[2] / 1e9:.1f} | {r['memory'] / 1e9:.1f} |"
        )
    lines += ["", "| generator | frame | stage | package s | ours s |", "|---|---|---|---|---|"]
    for r in rows:
        theirs = r.get("package_stages", {})
        for stage in dict.fromkeys([*theirs, *r["stages"]]):
            here, there = r["stages"].get(stage, 0), theirs.get(stage, 0)
            lines.append(f"| {r['generator']} | {r['height']}x{r['width']} | {stage} | {there:.3f} | {here:.3f} |")
    return "\n".join(lines) + "\n"


def size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", nargs="+", choices=CASES, default=["mobile-sam", "sam-vit-b"])
    parser.add_argument("--sizes", nargs="+", type=size, default=[(224, 224), (720, 1280)], help="height x width")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", default=["fp32"], choices=["fp32", "tf32", "bf16", "fp16"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1], help="frames at a time, for ours")
    parser.add_argument("--clicks", type=int, help="clicks per batch, for ours")
    parser.add_argument("--points", type=int, default=32, help="per side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="leave the package out")
    parser.add_argument("--out", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.generators:
        network = rule_made(CASES[name], photos(224, 224, 1)[0])
        for frame_size in args.sizes:
            for precision in args.precision:
                for batch in args.batch:
                    rows.append(measure(name, network, frame_size, precision, batch, args))
                    print(table(rows[-1:]), flush=True)
                    machine = {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
                    if torch.device(args.device).type == "cuda":
                        machine["device"] = torch.cuda.get_device_name()
                    report = {"arguments": {k: str(v) for k, v in vars(args).items()}, "machine": machine, "rows": rows}
                    (args.out / "mask_generation.json").write_text(json.dumps(report, indent=1) + "\n")
                    (args.out / "mask_generation.md").write_text(table(rows))


if __name__ == "__main__":
    main()
