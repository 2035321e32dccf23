"""The sound front end against the rules it follows, written out slowly."""

import math

import numpy as np
import pytest

from combo_avs.data.audio import (
    SILENT_LOG_MEL,
    fit_seconds,
    log_mel,
    log_mel_examples,
    mel_matrix,
    resample,
    waveform_seconds,
)


def slow_resample(x: np.ndarray, rate: int) -> np.ndarray:
    """resampy's rule for `kaiser_best`, one output sample and one side of the filter at a time."""
    count = 50 * 8192 + 1
    u = np.linspace(0, 1, count)
    rolloff = 0.9173473712608761
    half = np.kaiser(2 * count - 1, 12.984585250325175)[count - 1 :] * rolloff * np.sinc(rolloff * 50 * u)
    slope = np.append(np.diff(half), 0.0)
    scale = min(1.0, 16000 / rate)
    step = int(scale * 8192)
    result = np.zeros(int(len(x) * 16000 / rate))
    for t in range(len(result)):
        before, rest = divmod(t * rate, 16000)
        for entry, neighbours in (
            (scale * rest / 16000 * 8192, x[before::-1]),
            (scale * (1 - rest / 16000) * 8192, x[before + 1 :]),
        ):
            whole = int(entry)
            for i in range(min((count - whole) // step, len(neighbours))):
                weight = half[whole + i * step] + (entry - whole) * slope[whole + i * step]
                result[t] += scale * weight * neighbours[i]
    return result


@pytest.mark.parametrize("rate", [8000, 11025, 15999, 16001, 22050, 24000, 32000, 44100, 48000, 96000])
def test_resample_follows_the_rule(rate):
    x = np.random.default_rng(rate).uniform(-1, 1, 400)
    np.testing.assert_allclose(resample(x, rate), slow_resample(x, rate), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [7, 8000, 16000, 44100, 44101, 48000, 192_000])
@pytest.mark.parametrize("samples", [0, 1, 2, 239, 4999])
def test_resample_length(samples, rate):
    samples = min(samples, rate * 2)
    resampled = resample(np.ones(samples), rate)
    assert resampled.shape == (int(samples * 16000 / rate),)
    assert resampled.dtype == np.float64


def test_resample_keeps_a_tone():
    t = np.arange(44100) / 44100
    resampled = resample(np.sin(2 * np.pi * 1000 * t), 44100)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    np.testing.assert_allclose(resampled[200:-200], expected[200:-200], atol=1e-3)


def test_resample_long_sound_equals_its_middle():
    """Rows of the matrix products are handled in pieces; a long sound crosses from piece to piece."""
    x = np.random.default_rng(0).uniform(-1, 1, 48000 * 12)
    np.testing.assert_allclose(
        resample(x, 48000)[100_000:102_000], resample(x[299_400:306_600], 48000)[200:2200], rtol=0, atol=1e-12
    )


def test_resample_at_16_khz_changes_nothing_and_shares_nothing():
    x = np.random.default_rng(1).uniform(-1, 1, 100)
    resampled = resample(x, 16000)
    assert np.array_equal(resampled, x)
    assert not np.shares_memory(resampled, x)


@pytest.mark.parametrize("rate", [0, -16000, 4_000_000_000])
def test_resample_refuses_absurd_rates(rate):
    with pytest.raises(ValueError, match=str(rate)):
        resample(np.zeros(10), rate)


@pytest.mark.parametrize("function", [lambda x: resample(x, 8000), log_mel, lambda x: waveform_seconds(x, 1)])
def test_stereo_and_nan_are_refused(function):
    with pytest.raises(ValueError, match="mono"):
        function(np.zeros((100, 2)))
    with pytest.raises(ValueError, match="finite"):
        function(np.array([0.0, np.nan]))


def test_log_mel_follows_the_rule():
    """One step at a time, with the discrete Fourier transform and the triangles written out."""
    x = np.random.default_rng(2).uniform(-1, 1, 1200)
    n = np.arange(400)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)

    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    edges = [mel(125) + i * (mel(7500) - mel(125)) / 65 for i in range(66)]
    expected = np.zeros((6, 64))
    for step in range(6):
        frame = x[step * 160 : step * 160 + 400] * hann
        magnitude = [abs(np.sum(frame * np.exp(-2j * np.pi * k * n / 512))) for k in range(257)]
        for band in range(64):
            low, peak, high = edges[band : band + 3]
            weights = [
                min((mel(k * 31.25) - low) / (peak - low), (high - mel(k * 31.25)) / (high - peak)) for k in range(257)
            ]
            expected[step, band] = math.log(sum(m * max(0, w) for m, w in zip(magnitude, weights, strict=True)) + 0.01)
    np.testing.assert_allclose(log_mel(x), expected, rtol=0, atol=1e-10)


def test_mel_matrix_ignores_the_constant_part():
    assert mel_matrix().shape == (257, 64)
    assert not mel_matrix()[0].any()


@pytest.mark.parametrize(
    ("samples", "steps", "examples"),
    [
        (0, 0, 0),
        (1, 0, 0),
        (239, 0, 0),
        (240, 0, 0),
        (399, 0, 0),
        (400, 1, 0),
        (15_599, 95, 0),
        (15_600, 96, 1),
        (77_039, 479, 4),
        (77_040, 480, 5),
        (92_400, 576, 6),
        (153_840, 960, 10),
        (169_199, 1055, 10),
    ],
)
def test_log_mel_counts(samples, steps, examples):
    silence = np.zeros(samples)
    assert log_mel(silence).shape == (steps, 64)
    assert log_mel_examples(silence).shape == (examples, 96, 64)
    assert log_mel_examples(silence).dtype == np.float32


def test_examples_are_the_spectrogram_in_pieces():
    x = np.random.default_rng(3).uniform(-1, 1, 40_000)
    assert np.array_equal(log_mel_examples(x)[1], log_mel(x)[96:192].astype(np.float32))


def test_silence_policy_is_what_zeros_give():
    filled, valid = fit_seconds(np.empty((0, 96, 64), np.float32), 1, "silence")
    np.testing.assert_array_equal(filled, log_mel_examples(np.zeros(15_600)))
    assert not valid.any()


@pytest.mark.parametrize(
    ("policy", "value"), [("repeat_last", 2.0), ("zero_log_mel", 0.0), ("silence", SILENT_LOG_MEL)]
)
def test_fit_seconds_fills(policy, value):
    examples = np.stack([np.full((96, 64), k, np.float32) for k in (1, 2)])
    fitted, valid = fit_seconds(examples, 5, policy)
    assert fitted.dtype == np.float32
    assert np.array_equal(fitted[:2], examples)
    assert (fitted[2:] == np.float32(value)).all()
    assert valid.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize(("policy", "value"), [("repeat_last", SILENT_LOG_MEL), ("zero_log_mel", 0.0)])
def test_fit_seconds_without_examples(policy, value):
    fitted, valid = fit_seconds(np.empty((0, 96, 64), np.float32), 5, policy)
    assert (fitted == np.float32(value)).all()
    assert not valid.any()


@pytest.mark.parametrize("policy", ["repeat_last", "zero_log_mel", "silence"])
def test_fit_seconds_cuts(policy):
    examples = np.random.default_rng(4).normal(size=(11, 96, 64)).astype(np.float32)
    fitted, valid = fit_seconds(examples, 10, policy)
    assert np.array_equal(fitted, examples[:10])
    assert valid.all()


def test_fit_seconds_refuses():
    with pytest.raises(ValueError, match="loop"):
        fit_seconds(np.empty((1, 96, 64), np.float32), 5, "loop")
    with pytest.raises(ValueError, match="96, 64"):
        fit_seconds(np.empty((1, 64, 96), np.float32), 5, "silence")


def test_waveform_seconds_rounds_and_limits():
    x = np.array([0.0, 0.5 / 32768, 1.5 / 32768, -0.6 / 32768, 1.0, -1.0, 7.0, -7.0])
    assert waveform_seconds(x, 1)[0, :8].tolist() == [0, 0, 2, -1, 32767, -32768, 32767, -32768]


@pytest.mark.parametrize("samples", [0, 10, 32_000, 40_000])
def test_waveform_seconds_keeps_16_bit_samples(samples):
    pcm = np.random.default_rng(5).integers(-32768, 32768, samples).astype(np.int16)
    cut = waveform_seconds(pcm / 32768, 2)
    assert cut.shape == (2, 16_000)
    assert cut.dtype == np.int16
    kept = min(samples, 32_000)
    assert np.array_equal(cut.reshape(-1)[:kept], pcm[:kept])
    assert not cut.reshape(-1)[kept:].any()


def test_a_long_recording_is_its_parts():
    """Some 25 s, which are transformed in several pieces."""
    sound = np.random.default_rng(0).normal(0, 0.1, 25 * 16_000)
    whole = log_mel(sound)
    assert len(whole) == 1 + (len(sound) - 400) // 160
    for first in (0, 1000, 2000, len(whole) - 60):
        part = log_mel(sound[160 * first : 160 * first + 400 + 160 * 59])
        np.testing.assert_allclose(whole[first : first + 60], part, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [0, 1_000_001])
def test_rates_beyond_all_recordings_are_refused(rate):
    with pytest.raises(ValueError, match=f"{rate} Hz is outside"):
        resample(np.zeros(10), rate)
