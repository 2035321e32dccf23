"""The outcome of `combo reproduce`: our scores beside the paper's, and what keeps them from being compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.percent import PERCENT
from .paper import PAPER, TOLERANCE, Numbers


@dataclass(frozen=True)
class Reproduction:
    """The outcome of one reproduction. Scores are in percent, differences in points.

    obstacles: why the numbers are not those of the published experiment. notes: what may explain a difference.
    """

    subset: str
    backbone: str
    fusion: str
    ours: Numbers
    protocol: str
    scored_clips: int
    checkpoint: str  # file and sha256
    proposals: str  # name of the cache
    run: Path
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def published(self) -> Numbers:
        return PAPER[self.subset, self.backbone]

    @property
    def differences(self) -> Numbers:
        """Ours minus the paper's."""
        return Numbers(*(ours - paper for ours, paper in zip(self.ours, self.published, strict=True)))

    @property
    def met(self) -> bool:
        """Both scores are within the tolerance, and nothing says that they may not be compared."""
        return not self.obstacles and all(_is_within_tolerance(d) for d in self.differences)

    def summary(self) -> dict[str, Any]:
        return {
            "met": self.met,
            "subset": self.subset,
            "backbone": self.backbone,
            "fusion": self.fusion,
            **self.ours._asdict(),
            "unit": PERCENT,
            "published": self.published._asdict(),
            "difference": self.differences._asdict(),
            "tolerance": TOLERANCE,
            "protocol": self.protocol,
            "clips": self.scored_clips,
            "checkpoint": self.checkpoint,
            "proposals": self.proposals,
            "run": str(self.run),
            "not_comparable": list(self.obstacles),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        lines = [
            f"COMBO-{self.backbone.upper()} on {self.subset.upper()}, test split, clips scored: {self.scored_clips}",
            f"protocol {self.protocol}",
            f"checkpoint {self.checkpoint}, fusion {self.fusion}, Maskiges {self.proposals}",
            "",
            "         here  published  difference  tolerance",
        ]
        for name in Numbers._fields:
            ours, paper, difference = (getattr(n, name) for n in (self.ours, self.published, self.differences))
            met = "met" if _is_within_tolerance(difference) else "not met"
            lines.append(f"{name}  {ours:7.2f}  {paper:9.1f}  {difference:+10.2f}  {TOLERANCE:9.1f}  {met}")
        close = all(_is_within_tolerance(d) for d in self.differences)
        but = ": the numbers are close, but they are not of the published experiment" if close else ""
        lines += ["", "REPRODUCED" if self.met else f"NOT REPRODUCED{but}"]
        if self.obstacles:
            lines += ["not comparable with the paper, because", *(f"  - {o}" for o in self.obstacles)]
        if self.notes:
            lines += ["to know:", *(f"  - {n}" for n in self.notes)]
        return "\n".join([*lines, f"run folder: {self.run}"])


def _is_within_tolerance(difference: float) -> bool:
    """Whether a difference of scores is at most `TOLERANCE`, up to rounding."""
    return abs(difference) <= TOLERANCE + 1e-7
