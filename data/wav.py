"""Sound files as mono 16 kHz waveforms."""

import os
import warnings
from pathlib import Path

import numpy as np
import soundfile

from .audio import resample
from .clip import SAMPLE_RATE

LOUDEST_FLOAT = 16.0  # float samples beyond this are no overdriven sound but integers stored as floats


def read_wav(path: Path) -> np.ndarray:
    """The waveform: float64 [samples], mono, 16 kHz, nominally -1..1.

    PCM of any width is read as 16-bit integers over 32768, as the published code reads it; the channel mean
    is taken before resampling. Float files, which the published code reads as silence, are read as they are,
    with a warning.
    Raises ValueError that names a file that is unreadable, or holds NaN, infinite or unscaled values.
    """
    try:
        with soundfile.SoundFile(path) as sound:
            rate = sound.samplerate
            is_float = sound.subtype in ("FLOAT", "DOUBLE")
            samples = sound.read(dtype="float64" if is_float else "int16", always_2d=True)
        if is_float:
            if not np.isfinite(samples).all():
                raise ValueError("NaN or infinite samples")
            if (peak := float(np.abs(samples).max(initial=0.0))) > LOUDEST_FLOAT:
                raise ValueError(f"float samples reach {peak:g}; full scale is 1")
            warnings.warn(f"{path}: float WAV, which the published reader takes for silence", stacklevel=2)
        else:
            samples = samples / 32768.0
        waveform = samples.mean(axis=1)
        return waveform if rate == SAMPLE_RATE else resample(waveform, rate)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def check_wav(path: Path) -> list[str]:
    """What the header alone shows to be wrong with the file; empty if nothing."""
    if not path.is_file():
        return [f"{path} is missing"]
    try:
        frames = soundfile.info(str(path)).frames
        missing = _missing_bytes(path)
    except (soundfile.SoundFileError, OSError) as error:
        return [f"{path}: not a readable sound file ({error})"]
    if frames == 0:
        return [f"{path} holds no samples"]
    return [f"{path} is cut short: its header promises {missing:,} bytes more"] if missing else []


def _missing_bytes(path: Path) -> int:
    """Bytes that a RIFF header promises beyond the end of the file, which libsndfile does not report.

    Programs that write to a pipe leave the length at 0 or at its maximum; some count the 8 header bytes.
    """
    with path.open("rb") as file:
        head = file.read(8)
        there = os.fstat(file.fileno()).st_size
    promised = int.from_bytes(head[4:8], "little")
    if head[:4] != b"RIFF" or promised in (0, 0xFFFFFFFF) or promised <= there:
        return 0
    return promised + 8 - there
