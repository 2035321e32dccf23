"""The sound front end of VGGish, sample for sample: resample to 16 kHz, log-mel, whole examples, whole clips.

COMBO section 3.1 feeds VGGish with one log-mel example per frame. Published features were made with resampy's
`kaiser_best` filter and a NumPy log-mel, written out here in float64: torchaudio's mel triangles are linear in Hz, not
in mel (log-mel off by up to 0.013), and its resampler lacks resampy's truncated table step (0.008 at 44.1 kHz).

Letters: S samples, F steps of 10 ms, n examples, T seconds.
"""

import functools
import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .clip import LOG_MEL_SHAPE, SAMPLE_RATE, ShortAudio

WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms, and the window's power of two
MEL_RANGE = (125.0, 7500.0)  # Hz
LOG_OFFSET = 0.01  # added before the logarithm
SILENT_LOG_MEL = math.log(LOG_OFFSET)  # -4.605: every value of the log-mel of zeros

# resampy's kaiser_best: one half of a Kaiser-windowed sinc, tabulated.
_CROSSINGS, _STEPS, _BETA, _ROLLOFF = 50, 8192, 12.984585250325175, 0.9173473712608761
_MAX_RATE = 1_000_000  # Hz; far above any recording, and the table still has steps enough
_BLOCK = 160  # output samples per matrix product; one period of 44.1 kHz
_GATHER = 1 << 20  # samples copied at a time: the working memory stays at 8 MB whatever S is


def _checked(waveform: np.ndarray) -> np.ndarray:
    x = np.asarray(waveform, np.float64)
    if x.ndim != 1:
        raise ValueError(f"a waveform is mono, [S], not {x.shape}; average the channels first")
    if not np.isfinite(x).all():
        raise ValueError("the waveform has samples that are not finite numbers")
    return x


@functools.cache
def _half_filter() -> tuple[np.ndarray, np.ndarray]:
    """The filter from its centre to its end, and the step from entry to entry; float64 [409601] each."""
    u = np.linspace(0.0, 1.0, _CROSSINGS * _STEPS + 1)
    taper = np.i0(_BETA * np.sqrt(1.0 - u * u)) / np.i0(_BETA)
    half = taper * _ROLLOFF * np.sinc(_ROLLOFF * _CROSSINGS * u)
    return half, np.diff(half, append=half[-1])


def _filter_bank(outputs: np.ndarray, p: int, q: int) -> tuple[np.ndarray, int]:
    """Filters of some output samples u, which read the input at u * p / q.

    outputs: int [U], ascending. Returns float64 [W, U], and the input sample that row 0 is for.
    """
    half, slope = _half_filter()
    scale = min(1.0, q / p)
    step = int(scale * _STEPS)  # truncated: resampy's rule, and audible in the log-mel
    reach = len(half) // step
    centre, rest = np.divmod(outputs * p, q)
    before = scale * (rest / q) * _STEPS  # table entries between the centre and the sample before it
    after = scale * _STEPS - before
    first = int(centre[0]) - reach + 1
    distance = first + np.arange(centre[-1] + reach + 1 - first)[:, None] - centre  # [W, U]
    entry = np.where(distance > 0, after, before)
    whole = entry.astype(np.int64)
    index = whole + np.where(distance > 0, distance - 1, -distance) * step
    inside = index + step <= len(half)
    index[~inside] = 0
    taps = scale * (half[index] + (entry - whole) * slope[index])
    return np.where(inside, taps, 0.0), first


def resample(waveform: np.ndarray, rate: int) -> np.ndarray:
    """Resample to 16 kHz as resampy >= 0.3 does with `kaiser_best`, its default filter.

    The phases of the filter repeat, so it is a small bank of FIR filters, applied as matrix products.

    waveform: float [S], mono. rate: its sample rate in Hz, 1..1,000,000.
    Returns float64 [int(S * 16000 / rate)]. Beyond its ends the signal counts as zero.
    Raises ValueError for other shapes, other rates, and samples that are not finite.
    """
    x = _checked(waveform)
    if not 1 <= rate <= _MAX_RATE:
        raise ValueError(f"a sample rate of {rate} Hz is outside 1..{_MAX_RATE}")
    if rate == SAMPLE_RATE:
        return x.copy()
    common = math.gcd(rate, SAMPLE_RATE)
    p, q = rate // common, SAMPLE_RATE // common
    # A row of the result is one period of the phases, or several where one is too short for a matrix product.
    repeat = max(1, _BLOCK // q)
    period, hop = q * repeat, p * repeat  # output and input samples per row
    length = len(x) * SAMPLE_RATE // rate
    rows = -(-length // period)
    result = np.empty((rows, period))
    margin = len(_half_filter()[0]) // int(min(1.0, q / p) * _STEPS) + 1
    padded = np.zeros(margin + max(len(x), rows * hop) + margin)
    padded[margin : margin + len(x)] = x
    for start in range(0, min(period, length), _BLOCK):
        bank, first = _filter_bank(np.arange(start, min(start + _BLOCK, period)), p, q)
        windows = sliding_window_view(padded, len(bank))[margin + first :: hop][:rows]
        chunk = max(1, _GATHER // len(bank))
        for row in range(0, rows, chunk):
            # The copy is for BLAS, which takes no overlapping rows.
            gathered = np.ascontiguousarray(windows[row : row + chunk])
            result[row : row + chunk, start : start + bank.shape[1]] = gathered @ bank
    return result.reshape(-1)[:length]


def _mel(hertz: np.ndarray | float) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


@functools.cache
def mel_matrix() -> np.ndarray:
    """float64 [257, 64]: 64 triangles over the FFT bins, their sides linear in mel, their peaks 1."""
    low, high = _mel(np.array(MEL_RANGE))
    edges = np.linspace(low, high, LOG_MEL_SHAPE[1] + 2)
    bins = _mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT // 2 + 1))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling))


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """VGGish's log-mel spectrogram: ln(|STFT| @ mel + 0.01), magnitudes rather than powers.

    waveform: float [S], mono, 16 kHz, in -1..1.
    Returns float64 [F, 64] with F = 1 + (S - 400) // 160, and F = 0 below 400 samples: no padding, no centring.
    """
    x = _checked(waveform)
    window = 0.5 - 0.5 * np.cos(2 * np.pi / WINDOW * np.arange(WINDOW))  # periodic Hann
    if len(x) < WINDOW:
        return np.empty((0, LOG_MEL_SHAPE[1]))
    frames = sliding_window_view(x, WINDOW)[::HOP]
    result = np.empty((len(frames), LOG_MEL_SHAPE[1]))
    for start in range(0, len(frames), 1024):  # bounds the memory of long recordings
        spectrum = np.fft.rfft(frames[start : start + 1024] * window, FFT)  # zeros to the right of the window
        result[start : start + 1024] = np.log(np.abs(spectrum) @ mel_matrix() + LOG_OFFSET)
    return result


def log_mel_examples(waveform: np.ndarray) -> np.ndarray:
    """Cut the log-mel into VGGish's examples: 96 steps each, side by side, an incomplete tail dropped.

    Example k covers 0.96 k to 0.96 k + 0.975 s and stands for second k of the clip, as in the published data.

    waveform: float [S], mono, 16 kHz, in -1..1. Returns float32 [n, 96, 64]; n is 0 below 15,600 samples.
    """
    spectrogram = log_mel(waveform)
    steps, bands = LOG_MEL_SHAPE
    n = len(spectrogram) // steps
    return spectrogram[: n * steps].reshape(n, steps, bands).astype(np.float32)


def fit_seconds(examples: np.ndarray, seconds: int, policy: ShortAudio) -> tuple[np.ndarray, np.ndarray]:
    """Make a clip's examples as many as it has seconds. Surplus examples are cut.

    policy, for missing seconds: `repeat_last` repeats the last example (published S4 and MS3), or is silence if none
    is there; `zero_log_mel` is 0.0, a rather loud noise (published AVSS); `silence` is the log-mel of zeros, -4.605.

    examples: float32 [n, 96, 64], n may be 0.
    Returns float32 [T, 96, 64], and bool [T]: False where the policy filled.
    Raises ValueError for another policy or another shape.
    """
    if examples.shape[1:] != LOG_MEL_SHAPE:
        raise ValueError(f"log-mel examples are [n, 96, 64], not {examples.shape}")
    if policy == "repeat_last" and len(examples):
        filling = examples[-1]
    elif policy in ("repeat_last", "silence"):
        filling = SILENT_LOG_MEL
    elif policy == "zero_log_mel":
        filling = 0.0
    else:
        raise ValueError(f"short audio: {policy!r} is none of repeat_last, zero_log_mel, silence")
    fitted = np.empty((seconds, *LOG_MEL_SHAPE), np.float32)
    fitted[:] = filling
    fitted[: len(examples)] = examples[:seconds]
    return fitted, np.arange(seconds) < len(examples)


def waveform_seconds(waveform: np.ndarray, seconds: int) -> np.ndarray:
    """Cut a waveform into whole seconds of 16-bit samples, which a store keeps for encoders that read them.

    waveform: float [S], mono, 16 kHz, in -1..1. Returns int16 [T, 16000], padded with zeros or cut at T seconds:
    32768 x, rounded and clipped, so that samples of 16-bit files at 16 kHz survive exactly.
    """
    x = _checked(waveform)[: seconds * SAMPLE_RATE]
    samples = np.zeros(seconds * SAMPLE_RATE, np.int16)
    samples[: len(x)] = np.clip(np.rint(x * 32768.0), -32768, 32767)
    return samples.reshape(seconds, SAMPLE_RATE)
