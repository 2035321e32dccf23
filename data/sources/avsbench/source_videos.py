"""Which clips were cut from the same video, and splits that no video crosses.

MS3 is many clips of few videos, and its official splits part clips, not videos: most of its test clips show a scene
that a network was trained on. What it scores there is partly memory.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ...clip import Clip

PRECEDENCE = ("test", "val", "train")  # who keeps a video that several splits have clips of


def shared_sources(clips: Iterable[Clip]) -> dict[tuple[str, str], list[str]]:
    """(split, other split) -> ids of the clips of the first whose source video gave clips to the other, too.

    Only for test with train, test with val, and val with train, and only where they share any.
    """
    clips = list(clips)
    splits = _splits_of_sources(clips)
    shared: dict[tuple[str, str], list[str]] = {}
    for rank, split in enumerate(PRECEDENCE):
        for other in reversed(PRECEDENCE[rank + 1 :]):
            if ids := [c.id for c in clips if c.split == split and other in splits[c.source]]:
                shared[split, other] = ids
    return shared


def source_aware(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """The clips without those that leak between splits. A video with clips in several belongs to test, else to val.

    The test split stays whole, so scores on it can be compared, clip by clip, with those of official training.
    """
    splits = _splits_of_sources(clips)
    owner = {source: next(s for s in PRECEDENCE if s in there) for source, there in splits.items()}
    return tuple(c for c in clips if c.split == owner[c.source])


def _splits_of_sources(clips: Iterable[Clip]) -> dict[str, set[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        splits[clip.source].add(clip.split)
    return splits
