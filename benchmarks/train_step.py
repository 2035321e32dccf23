"""One training step: ours against a plain one, part by part. Writes JSON and a Markdown table.

    python benchmarks/train_step.py --clips 2 --out build/bench/train_step

All variants run in one process on one network, in turns; the numbers are medians of `--repeats` rounds, after one that
is thrown away.
On a CPU the time of the processor is told beside that of the clock, and ratios are of the former, so that other
programs on the machine count less.
On a GPU it is the clock, between synchronisations; there achieved TFLOP/s are told, too.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plain_step import plain_criterion, plain_optimizer, plain_parts, vggish_features
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from combo_avs.data.dataset import Batch
from combo_avs.model.audio.vggish import VGGish
from combo_avs.model.criterion import Supervision, criterion
from combo_avs.pipeline.common.devices import image_tensor, tensor_on
from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.train.optim import parameter_groups
from combo_avs.pipeline.train.step import Trainer, make_trainer, train_step

# Cumulative: each row of the table makes one more part of the plain step ours.
ROUTE = {
    "plain": "the published step, plain and eager, fp32",
    "audio": "audio features cached: no VGGish in the loop",
    "losses": "matching and losses of all frames and predictions at once",
    "decoder": "fused attention, masks of all predictions in one product",
    "fusion": "fusion without linear maps over pixels",
    "norms": "frozen norms in one pass",
    "optimizer": "fused AdamW: ours, fp32",
    "bf16": "bf16 autocast: ours, bf16",
}


class Steps:
    """One network, and every row of `ROUTE` as a step on it."""

    def __init__(self, preset: str, batch: Batch, log_mel: Tensor, device: str, overrides: list[str]) -> None:
        classes = 71 if preset.startswith("avss") else 2
        config = load_config(preset, [f"train.device={device}", "train.precision=fp32", *overrides])
        self.batch, self.log_mel = batch, log_mel
        self.ours = make_trainer(config, classes, batch.features.shape[1])
        model, settings = self.ours.model, config.train
        self.plain = replace(self.ours, optimizer=plain_optimizer(parameter_groups(model, settings)))
        bf16 = config.model_copy(update={"train": settings.model_copy(update={"precision": "bf16"})})
        self.bf16 = replace(self.ours, config=bf16)
        self.vggish = VGGish().to(self.ours.device).eval()

    def step(self, name: str) -> None:
        ours = set(list(ROUTE)[1 : list(ROUTE).index(name) + 1])
        if "optimizer" in ours:
            train_step(self.bf16 if "bf16" in ours else self.ours, self.batch, 0)
            return
        vggish = None if "audio" in ours else self.vggish
        with plain_parts(self.plain.model, {"norms", "fusion", "decoder"} - ours):
            plain_step(self.plain, self.batch, self.log_mel, vggish, "losses" in ours)

    def seconds(self, name: str) -> dict[str, float]:
        """Of one step: on the clock, between synchronisations, and on a CPU of the processor, all threads together."""
        cuda = self.ours.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
        start, busy = time.perf_counter(), time.process_time()
        self.step(name)
        if cuda:
            torch.cuda.synchronize()
        taken = {"wall": time.perf_counter() - start}
        return taken if cuda else taken | {"cpu": time.process_time() - busy}


def plain_step(trainer: Trainer, batch: Batch, log_mel: Tensor, vggish: VGGish | None, our_losses: bool) -> None:
    """The step as `train_step` does it, with the losses of choice."""
    device, config = trainer.device, trainer.config
    audio = tensor_on(batch.features, device) if vggish is None else vggish_features(vggish, log_mel.to(device))
    predictions = trainer.model(image_tensor(batch.frames, device), image_tensor(batch.maskiges, device), audio)
    labels, supervised = torch.from_numpy(batch.labels), torch.from_numpy(batch.supervised)
    if our_losses:
        losses = criterion(
            predictions.logits, predictions.masks, Supervision(labels, supervised, batch.frames_per_clip), config.loss
        )
    else:
        labels, supervised = labels.to(device), supervised.to(device)
        uniform = lambda shape: torch.rand(shape, device=device)  # noqa: E731
        losses = plain_criterion(predictions, labels, supervised, config.loss, uniform)
    trainer.optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), config.train.clip_norm)
    trainer.optimizer.step()


def make_batch(clips: int, preset: str, size: int) -> tuple[Batch, Tensor]:
    """Random pictures with blocks of labels; ten frames a clip for AVSS, all supervised except for S4."""
    rng, frames = np.random.default_rng(0), 10 if preset.startswith("avss") else 5
    count, classes = clips * frames, 4 if preset.startswith("avss") else 2
    pictures = rng.integers(0, 256, (2, count, size, size, 3), dtype=np.uint8)
    blocks = rng.integers(0, classes, (count, 4, 4), dtype=np.uint8)
    labels = np.kron(blocks, np.ones((1, size // 4, size // 4), np.uint8))
    supervised = np.arange(count) % frames == 0 if preset.startswith("s4") else np.ones(count, bool)
    ids, places, lengths = tuple(map(str, range(clips))), tuple(range(clips)), (frames,) * clips
    features = rng.random((count, 128), dtype=np.float32)
    batch = Batch(ids, places, lengths, pictures[0], pictures[1], features, labels, supervised)
    return batch, torch.from_numpy(rng.normal(size=(count, 96, 64)).astype(np.float32))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    batch, log_mel = make_batch(args.clips, args.preset, args.size)
    names = [n for n in ROUTE if args.only is None or n in args.only]
    steps = Steps(args.preset, batch, log_mel, args.device, args.set)
    clocks = ["wall"] if args.device == "cuda" else ["cpu", "wall"]
    seconds: dict[str, dict[str, list[float]]] = {clock: {n: [] for n in names} for clock in clocks}
    memory: dict[str, float] = {}
    for turn in range(args.repeats + 1):
        for name in names:
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            taken = steps.seconds(name)
            if args.device == "cuda":
                memory[name] = torch.cuda.max_memory_allocated() / 1e9
            told = ", ".join(f"{clock} {s:.2f} s" for clock, s in taken.items())
            print(f"round {turn} of {args.repeats}: {name} {told}", file=sys.stderr, flush=True)
            for clock in clocks if turn else []:
                seconds[clock][name].append(taken[clock])
    medians = {clock: {n: statistics.median(s) for n, s in of.items()} for clock, of in seconds.items()}
    ratios = {clock: {n: of[names[0]] / m for n, m in of.items()} for clock, of in medians.items()}
    result = {
        "preset": args.preset,
        "clips": args.clips,
        "frames": len(batch.frames),
        "size": args.size,
        "hardware": hardware(args.device),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "median": medians,
        "ratio": ratios,
        "peak_gb": memory,
    }
    if args.device == "cuda":
        with FlopCounterMode(display=False) as counter:
            steps.step(names[-1])
        result["tflop"] = counter.get_total_flops() / 1e12
        result["tflops"] = {n: result["tflop"] / m for n, m in medians["wall"].items()}
    return result


def hardware(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    clocks = {"cpu": "CPU s a step", "wall": "s a step"}
    head = [f"{clocks[clock]} | times as fast" for clock in result["median"]]
    head += ["frames/s", "peak GB"] if result["peak_gb"] else ["frames/s"]
    lines = [
        f"{result['preset']}, {result['clips']} clips, {result['frames']} frames of {result['size']} x "
        f"{result['size']}, {result['hardware']}, {result['threads']} thread(s)",
        "",
        f"| | {' | '.join(head)} |",
        "|---" * (1 + " | ".join(head).count("|") + 1) + "|",
    ]
    for name in result["median"]["wall"]:
        cells = [f"{of[name]:.3g} | {result['ratio'][clock][name]:.2f}" for clock, of in result["median"].items()]
        cells += [f"{result['frames'] / result['median']['wall'][name]:.3g}"]
        cells += [f"{result['peak_gb'][name]:.1f}"] if result["peak_gb"] else []
        lines.append(f"| {ROUTE[name]} | {' | '.join(cells)} |")
    if "tflops" in result:
        best = list(result["tflops"])[-1]
        lines += ["", f"{result['tflop']:.2f} TFLOP a step; {best}: {result['tflops'][best]:.0f} TFLOP/s"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="ms3-r50")
    parser.add_argument("--clips", type=int, default=8 if torch.cuda.is_available() else 2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=list(ROUTE), help="these rows alone")
    parser.add_argument("--set", action="append", default=[], help="section.key=value, as for combo train")
    parser.add_argument("--out", type=Path, default=Path("build/bench/train_step"))
    args = parser.parse_args()
    result = measure(args)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"train_step-{args.preset}-{args.device}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    print(f"\nwrote {path}")


if __name__ == "__main__":
    main()
