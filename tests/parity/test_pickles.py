"""The log-mel files that published pipelines write as raw pickles, read without running them."""

import numpy as np
import pytest
from golden import fixtures, load_arrays, reference_file

from combo_avs.safe_pickle import read_tensor_pickle


@pytest.mark.parametrize("name", fixtures("audio", "pkl/*.pkl"))
def test_log_mel_of_one_of_the_sounds(name: str) -> None:
    """What the pipeline did not fill with zeros is, second by second, the log-mel of one of the set's sounds."""
    pickled = read_tensor_pickle(reference_file("audio", f"pkl/{name}.pkl"))
    assert pickled.dtype == np.float32
    assert pickled.shape[1:] == (1, 96, 64)
    heard = [e for e in pickled[:, 0] if e.any()]
    spectrogram = np.concatenate(heard)
    sounds = load_arrays("audio", "logmel").values()
    assert any(np.array_equal(spectrogram, s[: len(spectrogram)]) for s in sounds)
