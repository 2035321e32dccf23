"""Sound files: every width of PCM, float files, and everything that can be wrong with one."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from combo_avs.data.audio import resample
from combo_avs.data.wav import check_wav, read_wav


def stereo(samples: int = 1600) -> np.ndarray:
    """int16 [samples, 2], over the whole range."""
    return np.random.default_rng(0).integers(-32768, 32768, (samples, 2)).astype(np.int16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sound.wav"


def test_pcm16_is_exact_and_channels_are_averaged(path):
    soundfile.write(path, stereo(), 16_000, subtype="PCM_16")
    waveform = read_wav(path)
    assert waveform.dtype == np.float64
    assert np.array_equal(waveform, stereo().astype(np.float64).mean(axis=1) / 32768)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32"])
def test_other_widths_are_read_at_16_bits(path, subtype):
    samples = (stereo().astype(np.int32) << 16) | 0x4321  # low bits that 16-bit integers do not have
    soundfile.write(path, samples, 16_000, subtype=subtype)
    kept = samples >> 24 << 8 if subtype == "PCM_U8" else samples >> 16
    assert np.abs(read_wav(path) * 32768 - kept.mean(axis=1)).max() <= (256 if subtype == "PCM_U8" else 0)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_float_is_sound_with_a_warning(path, subtype):
    samples = stereo() / 32768
    soundfile.write(path, samples, 16_000, subtype=subtype)
    with pytest.warns(UserWarning, match="float WAV"):
        waveform = read_wav(path)
    assert np.allclose(waveform, samples.mean(axis=1), atol=1e-7)


def test_pcm_gives_no_warning(path):
    soundfile.write(path, stereo(), 16_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_wav(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 20_000.0])
def test_float_values_that_are_no_sound_are_refused(path, bad):
    soundfile.write(path, np.array([0.0, bad, 0.0]), 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"sound\.wav"):
        read_wav(path)


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_the_mean_of_the_channels_is_resampled(path, rate):
    soundfile.write(path, stereo(rate // 4), rate)
    expected = resample(stereo(rate // 4).mean(axis=1) / 32768, rate)
    assert len(expected) == 4_000
    assert np.allclose(read_wav(path), expected, atol=1e-12)


def test_a_file_without_samples_reads_as_nothing_and_is_reported(path):
    soundfile.write(path, np.zeros((0, 2), np.int16), 16_000)
    assert read_wav(path).shape == (0,)
    assert "no samples" in check_wav(path)[0]


def test_check_finds_nothing_wrong_with_a_sound_file(path):
    soundfile.write(path, stereo(), 44_100)
    assert check_wav(path) == []


def test_check_names_missing_and_unreadable_files(path):
    assert check_wav(path) == [f"{path} is missing"]
    path.write_bytes(b"RIFF and nothing more")
    assert str(path) in check_wav(path)[0]
    path.write_bytes(b"")
    assert str(path) in check_wav(path)[0]
    with pytest.raises(ValueError, match=r"sound\.wav"):
        read_wav(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"sound\.wav"):
        read_wav(path)


def test_check_finds_a_file_that_was_cut_short(path):
    soundfile.write(path, stereo(), 16_000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    assert "1,000 bytes" in check_wav(path)[0]


@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_length_that_a_pipe_could_not_fill_in_is_no_problem(path, length):
    soundfile.write(path, stereo(), 16_000)
    whole = bytearray(path.read_bytes())
    whole[4:8] = length.to_bytes(4, "little")
    path.write_bytes(whole)
    assert check_wav(path) == []


@pytest.mark.parametrize(("promised", "missing"), [(0, 0), (0xFFFFFFFF, 0), (-8, 0), (1, 0), (9, 9)])
def test_lengths_that_programs_write(path, promised, missing):
    """At 0 or its maximum, from a pipe; right, or with the 8 bytes of the header counted; or the file was cut."""
    soundfile.write(path, stereo(), 16_000, subtype="PCM_16")
    content = path.read_bytes()
    length = {0: 0, 0xFFFFFFFF: promised, -8: len(content) - 8, 1: len(content)}.get(
        promised, len(content) - 8 + promised
    )
    path.write_bytes(content[:4] + length.to_bytes(4, "little") + content[8:])
    expected = [f"{path} is cut short: its header promises {missing} bytes more"] if missing else []
    assert check_wav(path) == expected
