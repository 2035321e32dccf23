"""The cost of a plan, estimated from a few timed frames."""

import time
from dataclasses import dataclass

from ...data.store.schema import array_specs, encode_shard
from ...errors import ComboError
from ..common.devices import device_name
from .driver import Plan
from .shard_loop import Record, run_clips
from .worker import open_job

TIMED_CLIPS = 3  # spread over the work; another one before them warms up


@dataclass(frozen=True)
class Estimate:
    """The cost of a plan on workers like this machine. Zero everywhere when nothing is left to do."""

    plan: Plan
    frames: int
    timed_frames: int = 0
    seconds_per_frame: float = 0.0  # of one worker
    bytes_per_frame: float = 0.0
    device: str = ""

    @property
    def seconds(self) -> float:
        return self.frames * self.seconds_per_frame

    @property
    def bytes(self) -> float:
        return self.frames * self.bytes_per_frame

    def __str__(self) -> str:
        name = self.plan.path.stem
        if not self.frames:
            return f"{name}: nothing to do"
        return (
            f"{name}: {self.frames} frames, about {_size(self.bytes)} and {_duration(self.seconds)} on one worker "
            f"({self.seconds_per_frame:.3g} s per frame on {self.device}, {self.timed_frames} frames timed)"
        )


def estimate(plan: Plan) -> Estimate:
    """Run the model on a few of the plan's clips, here; writes nothing.

    Raises `BadInput` when the device is not here, `ComboError` when the model fails on all of these clips.
    """
    clips = plan.clips
    spans = [clips.shard_range(shard) for shard in plan.todo]
    frames = sum(hi - lo for lo, hi in spans)
    some = plan.todo[:: max(1, len(plan.todo) // TIMED_CLIPS)][:TIMED_CLIPS]
    timed = [pair for shard in some for pair in clips.usable_in(shard)[:1]]
    if not timed:
        return Estimate(plan, frames)
    work = open_job(plan.job)
    record = Record(work.device, plan.job.batch_frames)
    run_clips(work.steps, timed[:1], record)
    started = time.perf_counter()
    outcomes = run_clips(work.steps, timed, record)
    seconds = time.perf_counter() - started
    made = [rows for rows in outcomes.values() if not isinstance(rows, str)]
    if not made:
        raise ComboError(f"{plan.job.name} fails on every clip that was tried:\n{next(iter(outcomes.values()))}")
    of_made = sum(len(next(iter(rows.values()))) for rows in made)
    specs = array_specs(plan.attributes)
    encoded = (encode_shard(spec, rows[name], clips.shard_frames) for rows in made for name, spec in specs.items())
    return Estimate(
        plan,
        frames,
        timed_frames=sum(clip.num_frames for _, clip in timed),
        seconds_per_frame=seconds / sum(clip.num_frames for _, clip in timed),
        bytes_per_frame=sum(len(e) for e in encoded if e is not None) / of_made,
        device=device_name(work.device),
    )


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
