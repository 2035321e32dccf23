"""Importing clips: what goes wrong with one of them costs that one alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from fakes import NoiseSource

from combo_avs.data.clip import Clip, ClipArrays
from combo_avs.pipeline.imports.clips import import_clips


class BrokenSource(NoiseSource):
    """Clip 1 has sound that is no number, clip 3 fails as a defect of a source would."""

    def read(self, clip: Clip) -> ClipArrays:
        read = super().read(clip)
        if clip.id == "clip-3":
            raise KeyError("a defect")
        return replace(read, waveform=np.full(16_000, np.nan)) if clip.id == "clip-1" else read


def test_a_clip_that_fails_is_quarantined_and_the_others_are_stored(tmp_path: Path) -> None:
    report = import_clips(BrokenSource(), tmp_path, 20)
    assert set(report.quarantined) == {"clip-1", "clip-3"}
    assert "not finite" in report.quarantined["clip-1"]
    assert "a defect" in report.quarantined["clip-3"]
    store = report.store
    for row, clip in enumerate(store.table):
        valid = store.read("label_valid", *store.span(row)).tolist()
        good = clip.id not in report.quarantined
        assert valid == ([int(a) for a in clip.frame_annotated] if good else [0] * clip.num_frames)
        assert store.read("audio_valid", *store.span(row)).any() == good
        assert store.read("frames", *store.span(row)).any() == good
