"""Sound of the synthetic set: one timbre per kind of object, mixed as the sounding plan says.

Each timbre has its main energy in its own part of the mel scale and its own rhythm, so that a log-mel
spectrogram averaged over one second tells the kinds apart, alone and in pairs. Pitch, tempo and level are
sampled per clip. All waveforms are float64 at 16 kHz.
"""

from collections.abc import Callable

import numpy as np
from scipy import fft

from ...clip import SAMPLE_RATE

FADE = 0.03  # seconds; every object fades in and out this fast
LATE = 0.0075  # seconds from the end of a step to the middle of the fades
LEVELS = (0.18, 0.4)  # peak of one object's sound
HISS = (0.001, 0.003)  # standard deviation of the noise that is always there
TABLE = 4096  # samples of one period in a wave table

Timbre = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # (rng, seconds [n]) -> waveform [n]


def noise_band(rng: np.random.Generator, samples: int, low: float, high: float) -> np.ndarray:
    """White noise between two frequencies in Hz."""
    first, last = (int(f * samples / SAMPLE_RATE) for f in (low, high))
    spectrum = np.zeros(samples // 2 + 1, np.complex128)
    spectrum[first : last + 1] = rng.standard_normal((last + 1 - first, 2)) @ (1, 1j)
    return np.asarray(fft.irfft(spectrum, samples))


def tone(cycles: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A periodic wave with harmonics 1, 2, ... of these strengths; `cycles` counts periods from the start."""
    angle = 2 * np.pi * np.arange(TABLE) / TABLE
    table = weights @ np.sin(np.outer(np.arange(1, len(weights) + 1), angle))
    return table[(cycles * TABLE).astype(np.int64) & (TABLE - 1)]


def formants(pitch: float, peaks: list[tuple[float, float, float]]) -> np.ndarray:
    """Strengths of all harmonics of `pitch` below 7.5 kHz under peaks (centre Hz, width Hz, strength)."""
    f = pitch * np.arange(1, int(7500 / pitch) + 1)
    return np.sum([s * np.exp(-(((f - centre) / width) ** 2)) for centre, width, s in peaks], axis=0)


def since_beat(rng: np.random.Generator, times: np.ndarray, rate: float) -> np.ndarray:
    """Seconds since the last of `rate` beats per second."""
    return np.mod(times * rate + rng.random(), 1) / rate


def bird(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Quick rising chirps, 4 to 6.8 kHz."""
    beat = since_beat(rng, times, rng.uniform(6, 9))
    low = rng.uniform(4000, 4600)
    cycles = beat * (low + rng.uniform(8000, 11000) * beat)
    return tone(cycles, np.ones(1)) * np.exp(-(((beat - 0.045) / 0.03) ** 2))


def car(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """A racing engine: dense harmonics around 1 kHz, revving slowly."""
    pitch = rng.uniform(95, 140)
    rev = rng.uniform(0.3, 0.8)
    cycles = pitch * (times - 0.06 / (2 * np.pi * rev) * np.cos(2 * np.pi * rev * times))
    return tone(cycles, formants(pitch, [(950, 230, 1.0), (250, 150, 0.15)]))


def dog(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Barks: short bursts of noise between 1.4 and 2.4 kHz."""
    shift = rng.uniform(0.92, 1.1)
    beat = since_beat(rng, times, rng.uniform(3, 4.5))
    growl = noise_band(rng, len(times), 1400 * shift, 2300 * shift)
    return growl * np.minimum(1, beat / 0.01) * np.exp(-beat / 0.12)


def guitar(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Plucked strings: harmonics of 180 to 240 Hz that peak between 350 and 700 Hz and die away."""
    pitch = rng.uniform(180, 240)
    beat = since_beat(rng, times, rng.uniform(2.5, 4))
    string = tone(pitch * times, formants(pitch, [(500, 170, 1.0), (1500, 700, 0.02)]))
    return string * np.minimum(1, beat / 0.004) * np.exp(-beat / 0.25)


def helicopter(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Rotor: noise below 320 Hz, beaten 10 to 15 times per second."""
    beats = np.cos(2 * np.pi * (rng.uniform(10, 15) * times + rng.random()))
    return noise_band(rng, len(times), 90, rng.uniform(270, 320)) * (0.25 + 0.75 * (0.5 + 0.5 * beats) ** 2)


def woman(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """A sung vowel with vibrato: its strong formant lies between 2.6 and 3.6 kHz."""
    pitch = rng.uniform(250, 340)
    vibrato = rng.uniform(5, 6.5)
    cycles = pitch * (times - 0.02 / (2 * np.pi * vibrato) * np.cos(2 * np.pi * vibrato * times))
    return tone(cycles, formants(pitch, [(3050, 420, 1.0), (350, 120, 0.15)]))


TIMBRES: dict[str, Timbre] = {f.__name__: f for f in (bird, car, dog, guitar, helicopter, woman)}


def mix(rng: np.random.Generator, names: tuple[str, ...], plan: np.ndarray, step: float, seconds: float) -> np.ndarray:
    """The waveform of a scene, float64 [seconds * 16000] within -1..1.

    names: what the objects are. plan: bool [steps, N], which of them sound in each step of `step` seconds;
    the last step lasts to the end. Steps meet 7.5 ms late: with step 0.96 that is the middle of the 15 ms
    that neighbouring log-mel examples (0.975 s long) share.
    """
    samples = round(seconds * SAMPLE_RATE)
    times = np.arange(samples) / SAMPLE_RATE
    waveform = rng.uniform(*HISS) * rng.standard_normal(samples)
    for name, on in zip(names, plan.T, strict=True):
        if on.any():
            voice = TIMBRES[name](rng, times)
            waveform += rng.uniform(*LEVELS) / np.abs(voice).max() * voice * _gate(on, step, times)
    return np.clip(waveform, -1, 1)


def _gate(on: np.ndarray, step: float, times: np.ndarray) -> np.ndarray:
    """float64 [n], 0..1: open during the steps that are on."""
    switches = step * np.arange(1, len(on)) + LATE
    corners = np.stack([switches - FADE / 2, switches + FADE / 2], axis=1).ravel()
    values = np.repeat(on.astype(np.float64), 2)[1:-1]
    return np.interp(times, corners, values) if len(on) > 1 else np.full(len(times), float(on[0]))
