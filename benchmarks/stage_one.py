"""What stage one costs apart from the models: a generator of fixed cost instead of one, on synthetic clips.

    python benchmarks/stage_one.py --out stage_one.json           all parts, 10 to 20 minutes on two cores
    python benchmarks/stage_one.py --part overhead --scale 0.1    one part, a tenth of the clips

Prints a table and writes the same numbers as JSON. Needs the repository: its generator stands in tests/fakes.py.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask.config
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import fakes

from combo_avs.data.clip import Clip
from combo_avs.data.store.commit import commit_shard
from combo_avs.data.store.metadata import Checksums, identity
from combo_avs.data.store.receipts import Receipt, receipt_path
from combo_avs.data.store.root import create_cache, create_clips
from combo_avs.data.store.schema import shard_key
from combo_avs.data.store.store import Cache, ClipStore, Store
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.precompute.cluster import local_workers
from combo_avs.pipeline.precompute.dispatch import Task, run_here, run_on_workers
from combo_avs.pipeline.precompute.driver import Plan, plan_caches

Result = dict[str, Any]


class SimulatedClips(fakes.NoiseSource):
    """Rows of a clip table; every second clip has 10 frames, the others 5."""

    def __init__(self, clips: int, size: int) -> None:
        super().__init__(0, size)
        self.clips = tuple(map(self._clip, range(clips)))

    def _clip(self, index: int) -> Clip:
        length = 10 if index % 2 else 5
        every = (True,) * length
        times = tuple(float(k) for k in range(length))
        return Clip(f"clip-{index:08d}", "v2", "train", ("dog",), times, every, every, f"video-{index}")


def clip_store(folder: Path, clips: int, size: int, noise: bool = False) -> ClipStore:
    """A finished clip store: silent clips, black, or one picture of noise in all of them."""
    store = create_clips(folder, SimulatedClips(clips, size), shard_frames=160)
    frame = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    for shard in range(store.num_shards):
        lo, hi = store.shard_range(shard)
        arrays = {name: np.full(spec.rows(hi - lo), spec.fill, spec.dtype) for name, spec in store.specs.items()}
        if noise:
            arrays["frames"][:] = frame
        commit_shard(store, shard, arrays, counts={}, quarantined={}, notes={})
    return ClipStore(folder)


def plan(store: ClipStore, **parameters: Any) -> Plan:
    plan = plan_caches(str(store.path.parent), PrecomputeConfig(generator=parameters), "fake", None)[0]
    create_cache(store, plan.attributes)
    return plan


def tasks(plan: Plan) -> list[Task]:
    """Every shard, done or not."""
    return [Task(plan.job, shard, True) for shard in range(plan.clips.num_shards)]


def done(outcomes: Any) -> None:
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def timed(what: str, work: Callable[[], Any]) -> Result:
    """Seconds by the clock and of the processor: on a machine with other work only the latter is ours."""
    cpu = time.process_time()
    took = seconds(work)
    return {f"seconds_to_{what}": took, f"cpu_seconds_to_{what}": time.process_time() - cpu}


def overhead(folder: Path, scale: float) -> Result:
    """A generator that costs nothing, frames of 224 x 224, 44 masks: what is left is ours."""
    store = clip_store(folder, clips=max(42, int(210 * scale)), size=224, noise=True)
    made = plan(store, masks=44)
    clips = len(store.table)
    done(run_here(tasks(made)[:1]))
    cpu = time.process_time()
    alone = seconds(lambda: done(run_here(tasks(made))))
    cpu = time.process_time() - cpu
    with local_workers(1) as client:
        nothing = [Task(made.job, 0, again=False)] * 200  # finished already: the worker looks, and says so
        done(run_on_workers(client, nothing[:1]))
        through_dask = seconds(lambda: done(run_on_workers(client, nothing)))
    shards = store.num_shards
    return {
        "clips": clips,
        "shards": shards,
        "seconds_per_shard": alone / shards,
        "milliseconds_per_clip": 1e3 * alone / clips,
        "milliseconds_per_frame": 1e3 * alone / store.frames,
        "cpu_milliseconds_per_frame": 1e3 * cpu / store.frames,
        "milliseconds_of_dask_per_task": 1e3 * through_dask / len(nothing),
    }


def waiting(folder: Path, scale: float) -> Result:
    """The share of time in which the device waits, by the cost of the generator; 224 x 224, 44 masks."""
    store = clip_store(folder, clips=max(42, int(84 * scale)), size=224, noise=True)
    result: Result = {}
    for cost in (0.01, 0.03, 0.1):
        made = plan(store, masks=44, seconds_per_frame=cost)
        shares = [1 - o.summary["busy"] / o.summary["seconds"] for o in run_here(tasks(made)) if o.summary]
        result[f"waiting_share_at_{cost:g}_s_per_frame"] = float(np.mean(shares))
    return result


def scaling(folder: Path, scale: float) -> Result:
    """Clips per second with one worker and with two, once they run; 96 x 96, 20 masks, 50 ms per frame."""
    store = clip_store(folder, clips=max(42, int(210 * scale)), size=96, noise=True)
    made = plan(store, masks=20, seconds_per_frame=0.05)
    result: Result = {"clips": len(store.table), "shards": store.num_shards}
    for workers in (1, 2):
        with local_workers(workers) as client:
            warm = plan(store, masks=1)
            done(run_on_workers(client, tasks(warm)[: 4 * workers]))
            took = seconds(lambda client=client: done(run_on_workers(client, tasks(made))))
        result[f"clips_per_second_{workers}"] = len(store.table) / took
    result["two_workers_over_one"] = result["clips_per_second_2"] / result["clips_per_second_1"]
    ideal = -(-store.num_shards // 2) / store.num_shards
    result["most_possible_with_these_shards"] = 1 / ideal
    return result


def memory(folder: Path, scale: float) -> Result:
    """Resident memory of the process with the scheduler and of two workers, over the run; 16 x 16."""
    store = clip_store(folder, clips=int(20_000 * scale), size=16)
    made = plan(store, masks=3)
    result: Result = {"clips": len(store.table), "shards": store.num_shards, "megabytes": []}
    here = psutil.Process()
    with local_workers(2) as client:
        pids = client.run(os.getpid)
        assert isinstance(pids, dict)  # of a client that is not asynchronous
        workers = [psutil.Process(pid) for pid in pids.values()]
        step = max(1, store.num_shards // 10)
        for count, outcome in enumerate(run_on_workers(client, tasks(made)), start=1):
            if outcome.error is not None:
                raise outcome.error
            if count % step == 0:
                row = [count, *(round(p.memory_info().rss / 1e6, 1) for p in (here, *workers))]
                result["megabytes"].append(row)
    result["columns"] = ["shards done", "scheduler and driver", "worker 0", "worker 1"]
    return result


def million(folder: Path, scale: float) -> Result:
    """A simulated clip table: opening, planning, and resuming when half of the shards are done.

    Planning opens the clip store and reads all its receipts; resuming reads those of the cache as well.
    """
    clips = int(1_000_000 * scale)
    result: Result = {"clips": clips}
    result["seconds_to_make_the_table"] = seconds(lambda: create_clips(folder, SimulatedClips(clips, 224), 160))
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        return result | fresh.submit(_open_plan_resume, folder).result()


def _open_plan_resume(folder: Path) -> Result:
    """In a process of its own, so that its memory is that of opening and planning."""
    fakes.dask_setup(None)
    store = ClipStore(folder)
    result: Result = {"shards": store.num_shards}
    _simulate_receipts(store, range(store.num_shards))
    result |= timed("open", lambda: ClipStore(folder))
    before = psutil.Process().memory_info().rss
    result |= timed("plan", lambda: plan(store, masks=3))
    made = plan(store, masks=3)
    _simulate_receipts(Cache(made.path), range(0, store.num_shards, 2))
    result |= timed("resume", lambda: plan(store, masks=3))
    result["shards_left"] = len(plan(store, masks=3).todo)
    result["megabytes_for_planning"] = round((psutil.Process().memory_info().rss - before) / 1e6)
    return result


def _simulate_receipts(store: Store, shards: range) -> None:
    """As if these shards held nothing but fill value: there are receipts and no data."""
    folder = receipt_path(store.path, 0).parent
    assert isinstance(folder, Path)
    folder.mkdir(exist_ok=True)
    name = identity(store.attributes)
    for shard in shards:
        files: Checksums = {shard_key(array, spec, shard): None for array, spec in store.specs.items()}
        receipt = Receipt(shard, store.shard_range(shard), files, {}, {}, {}, name)
        receipt_path(store.path, shard).write_bytes(receipt.to_json())


PARTS = {f.__name__: f for f in (overhead, waiting, scaling, memory, million)}


def table(results: dict[str, Result]) -> str:
    """The numbers for people."""
    lines = []
    for part, result in results.items():
        lines += ["", f"{part}: {PARTS[part].__doc__}", ""]
        for key, value in result.items():
            shown = f"{value:.3g}" if isinstance(value, float) else value
            if isinstance(value, list) and key == "megabytes":
                lines += [f"  {' '.join(f'{x:>8}' for x in row)}" for row in value]
            else:
                lines.append(f"  {key.replace('_', ' '):40} {shown}")
    return "\n".join(lines)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the clips")
    parser.add_argument("--out", type=Path, help="JSON file")
    asked = parser.parse_args()
    fakes.dask_setup(None)
    results = {}
    with dask.config.set(fakes.PRELOAD):
        for part in asked.part or PARTS:
            with tempfile.TemporaryDirectory(prefix="combo-benchmark-") as folder:
                results[part] = PARTS[part](Path(folder), asked.scale)
            print(table({part: results[part]}), flush=True)
    if asked.out:
        machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "scale": asked.scale}
        asked.out.write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
