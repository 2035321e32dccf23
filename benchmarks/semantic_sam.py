"""Semantic-SAM's everything mode: the fast route beside the released code's, on the same weights, in one process.

    OMP_NUM_THREADS=2 python benchmarks/semantic_sam.py --model T --sizes 224 640 --repeats 3

Weights are made by rule, frames are those of the golden fixtures. The two routes take turns. Prints wall and CPU
seconds per frame (the medians), their ratio, kept masks and differing pixels; with --profile, also where each route's
time goes, by kind of operation.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from combo_avs.model.foundation.semantic_sam.frame_size import with_short_edge
from combo_avs.model.foundation.semantic_sam.generator import SemanticSamConfig, SemanticSamGenerator

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from published_semantic_sam import image_of, published_network
from semantic_sam_as_published import as_published, published_masks

KINDS = {  # operator -> what it does here
    "matrix products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm"),
    "fused attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "softmax": ("aten::_softmax",),
    "reading levels": ("aten::grid_sampler_2d", "aten::_embedding_bag_forward_only", "aten::_embedding_bag"),
    "convolutions": ("aten::mkldnn_convolution", "aten::_slow_conv2d_forward"),
    "resizing masks": ("aten::upsample_bilinear2d", "aten::_upsample_bicubic2d_aa"),
    "copies": ("aten::copy_", "aten::cat", "aten::clone"),
}


class Run(NamedTuple):
    """What one route gave for one frame, and what it took."""

    masks: Tensor
    wall: float
    cpu: float


def timed(route: Callable[[], Tensor]) -> Run:
    wall, cpu = time.perf_counter(), time.process_time()
    masks = route()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Run(masks, time.perf_counter() - wall, time.process_time() - cpu)


def profiled(route: Callable[[], Tensor]) -> str:
    """Seconds by kind of operation, largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as events:
        route()
    kind_of = {operator: kind for kind, operators in KINDS.items() for operator in operators}
    seconds: Counter[str] = Counter()
    for event in events.key_averages():
        seconds[kind_of.get(event.key, "everything else")] += event.self_cpu_time_total / 1e6
    return ", ".join(f"{kind} {s:.2f}" for kind, s in seconds.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["S", "T", "L"], default="T")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 640], help="sides of the square frame, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()

    network = published_network(options.model).to(options.device)
    generator = SemanticSamGenerator(f"semantic-sam-{options.model.lower()}", SemanticSamConfig(), network, None)
    slow = as_published(network)
    print(f"model {options.model}, {options.device}, {torch.get_num_threads()} threads, {options.repeats} repeats")
    print("| frame | published: wall, CPU s | ours: wall, CPU s | ratio: wall, CPU | masks | differing pixels |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        frame = image_of("T" if options.model == "S" else options.model, (224, 224))
        if size != 224:
            frame = with_short_edge(frame[None], size)[0]
        frame = frame.to(options.device)
        routes = {
            "published": lambda frame=frame: published_masks(slow, frame, generator.config).masks,
            "ours": lambda frame=frame: generator(frame[None])[0].masks,
        }
        runs: dict[str, list[Run]] = {name: [] for name in routes}
        for _ in range(options.repeats):
            for name, route in routes.items():
                runs[name].append(timed(route))
        wall, cpu = ({n: median(getattr(run, key) for run in r) for n, r in runs.items()} for key in ("wall", "cpu"))
        theirs, ours = runs["published"][0].masks, runs["ours"][0].masks.cpu()
        different = (theirs != ours).sum().item() if len(theirs) == len(ours) else "other masks"
        columns = [f"{wall[n]:.2f}, {cpu[n]:.2f}" for n in routes]
        ratio = f"{wall['published'] / wall['ours']:.2f}, {cpu['published'] / cpu['ours']:.2f}"
        print(f"| {size} | {columns[0]} | {columns[1]} | {ratio} | {len(ours)} | {different} |", flush=True)
        if options.profile:
            for name, route in routes.items():
                print(f"  {name}, seconds: {profiled(route)}", flush=True)


if __name__ == "__main__":
    main()
