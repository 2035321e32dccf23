"""The log-mel spectrograms that come with AVSBench, as pickled torch tensors."""

from pathlib import Path

import numpy as np

from ....safe_pickle import read_tensor_pickle
from ...clip import LOG_MEL_SHAPE, Clip

AVSS_SECONDS = 10  # rows of every AVSS pickle, also of 5-second clips


def pickle_path(folder: Path, clip: Clip) -> Path:
    """Where the pickle of a clip lies below the folder of its subset. The parts of its name are plain file names."""
    if clip.subset == "s4":
        return folder / "s4_data" / "audio_log_mel" / clip.split / clip.objects[0] / f"{clip.id}.pkl"
    if clip.subset == "ms3":
        return folder / "ms3_data" / "audio_log_mel" / clip.split / f"{clip.id}.pkl"
    return folder / clip.subset / clip.id / "audio.pkl"


def read_log_mel(path: Path, clip: Clip) -> np.ndarray:
    """float32 [T, 96, 64]: of the ten rows that AVSS pickles have, the first T, as published.

    ValueError names a file that is damaged, holds another shape or type, values that are not finite, or code.
    """
    log_mel = read_tensor_pickle(path)
    rows = clip.num_frames if clip.subset in ("s4", "ms3") else AVSS_SECONDS
    if log_mel.shape != (rows, 1, *LOG_MEL_SHAPE) or log_mel.dtype != np.float32:
        raise ValueError(f"{path} holds {log_mel.dtype} {list(log_mel.shape)}; expected float32 [{rows}, 1, 96, 64]")
    if not np.isfinite(log_mel).all():
        raise ValueError(f"{path} has values that are not finite")
    return log_mel[: clip.num_frames, 0]
