"""The segmenter that stands for a run in tests of what is written."""

import pytest
from bright_segmenter import BrightSegmenter

from combo_avs.pipeline.predict import predict as job


@pytest.fixture
def segmenter(monkeypatch: pytest.MonkeyPatch) -> BrightSegmenter:
    made = BrightSegmenter()
    monkeypatch.setattr(job, "open_segmenter", lambda *_: made)
    return made
