"""What sounds when: intervals by class, from the label maps of a video."""

import csv
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

MIN_SHARE = 0.001  # of the picture, 50 pixels of 224 x 224; less is taken for noise
MAX_LINES = 12  # intervals printed


@dataclass(frozen=True)
class Interval:
    """Seconds in a row in which a class covers at least `MIN_SHARE` of the picture. share: its mean share."""

    name: str
    begin: float  # seconds
    end: float
    share: float

    def __str__(self) -> str:
        return f"{_clock(self.begin)} to {_clock(self.end)}  {self.name}, {self.share:.1%} of the picture"


@dataclass
class Timeline:
    """Areas of all classes by second. A second without label maps takes the areas of the second before."""

    classes: tuple[str, ...]
    duration: float  # seconds
    _sums: dict[int, np.ndarray] = field(default_factory=dict)  # by second: pixels of each class
    _areas: dict[int, int] = field(default_factory=dict)

    def add(self, time: float, labels: np.ndarray) -> None:
        """labels: uint8 [H, W], class index, at `time` seconds."""
        counts = np.bincount(labels.ravel(), minlength=len(self.classes))
        second = int(time)
        self._sums[second] = self._sums.get(second, 0) + counts
        self._areas[second] = self._areas.get(second, 0) + labels.size

    def shares(self) -> np.ndarray:
        """float64 [seconds, K]: the share of the picture that each class covers."""
        last = max([*self._sums, int(np.ceil(self.duration - 0.5)) - 1])
        rows, shown = [], np.eye(len(self.classes))[0]
        for second in range(last + 1):
            if second in self._sums:
                shown = self._sums[second] / self._areas[second]
            rows.append(shown)
        return np.array(rows)

    def intervals(self) -> list[Interval]:
        """Sorted by start; classes[0], the background, has none."""
        shares = self.shares()
        found = []
        for index in range(1, len(self.classes)):
            sounds = np.concatenate([[False], shares[:, index] >= MIN_SHARE, [False]])
            edges = np.flatnonzero(sounds[1:] != sounds[:-1])
            for begin, end in zip(edges[::2], edges[1::2], strict=True):
                until = self.duration if end == len(shares) else float(end)
                share = float(shares[begin:end, index].mean())
                found.append(Interval(self.classes[index], float(begin), until, share))
        return sorted(found, key=lambda i: (i.begin, i.name))

    def write(self, folder: Path, video: str) -> None:
        """Write timeline.csv, and timeline.json with the shares of every second as well."""
        intervals, shares = self.intervals(), self.shares()
        with (folder / "timeline.csv").open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["class", "from_seconds", "to_seconds", "share_of_picture"])
            rows.writerows([i.name, f"{i.begin:.3f}", f"{i.end:.3f}", f"{i.share:.5f}"] for i in intervals)
        present = [k for k in range(1, len(self.classes)) if shares[:, k].any()]
        content = {
            "video": video,
            "duration": self.duration,
            "intervals": [asdict(i) for i in intervals],
            "share_by_second": {self.classes[k]: shares[:, k].round(5).tolist() for k in present},
        }
        (folder / "timeline.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")

    def lines(self) -> Iterable[str]:
        """Lines to print: a summary and the first intervals."""
        shares, intervals = self.shares(), self.intervals()
        foreground = 1 - shares[:, 0]
        sounding = int((shares[:, 1:] >= MIN_SHARE).any(axis=1).sum())
        yield f"something sounds in {sounding} of {len(shares)} seconds, {foreground.mean():.1%} of all pixels"
        yield from (str(i) for i in intervals[:MAX_LINES])
        if len(intervals) > MAX_LINES:
            yield f"... and {len(intervals) - MAX_LINES} more in timeline.csv"


def _clock(seconds: float) -> str:
    whole = round(seconds, 1)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(int(minutes), 60)
    shown = f"{rest:04.1f}".removesuffix(".0")
    return f"{hours}:{minutes:02d}:{shown}" if hours else f"{minutes}:{shown}"
