"""Memory of one training step, without a GPU: what PyTorch holds at most, counted tensor by tensor.

    python benchmarks/memory.py --preset avss-r50 --clips 1 --set train.precision=bf16 --set train.checkpointing=true

The step runs on the CPU. Every storage that an operator gives is counted from its making to its end: weights,
gradients, the optimiser's state, activations and what comes up on the way. Left out is what a GPU adds: workspaces
inside kernels, fragmentation, CUDA itself. The process's own peak is told, too. A step with `train.micro_batch_clips`
holds no more than one of that many clips, so one clip speaks for a batch of any size.
"""

import argparse
import json
import resource
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from train_step import hardware, make_batch

from combo_avs.pipeline.config.tree import load_config
from combo_avs.pipeline.train.step import Trainer, make_trainer, train_step


class Counted(TorchDispatchMode):
    """Bytes of all storages that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._alive: set[int] = set()

    def count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self.bytes += size
        self.most = max(self.most, self.bytes)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.remove(key)
        self.bytes -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf)
        return result


def measure(preset: str, clips: int, size: int, overrides: list[str]) -> dict[str, Any]:
    batch, _ = make_batch(clips, preset, size)
    config = load_config(preset, ["train.device=cpu", *overrides])
    trainer = make_trainer(config, 71 if preset.startswith("avss") else 2, batch.features.shape[1])
    train_step(trainer, batch, 0)  # makes the optimiser's state
    counted, standing = Counted(), held(trainer)
    for tensor in standing:
        counted.count(tensor)
    kept = counted.bytes
    with counted:
        train_step(trainer, batch, 1)
    return {
        "preset": preset,
        "overrides": overrides,
        "clips": clips,
        "frames": len(batch.frames),
        "hardware": hardware("cpu"),
        "weights_and_optimizer_gb": kept / 1e9,
        "counted_peak_gb": counted.most / 1e9,
        "process_peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def held(trainer: Trainer) -> list[torch.Tensor]:
    """Weights, buffers and the optimiser's state; gradients are made anew in every step."""
    trainer.optimizer.zero_grad(set_to_none=True)
    states = [s for state in trainer.optimizer.state.values() for s in state.values() if isinstance(s, torch.Tensor)]
    return [*trainer.model.parameters(), *trainer.model.buffers(), *states]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", default="avss-r50")
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, as for combo train")
    parser.add_argument("--out", type=Path, help="JSON")
    args = parser.parse_args()
    result = json.dumps(measure(args.preset, args.clips, args.size, args.set), indent=1)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
