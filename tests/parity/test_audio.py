"""The sound front end and VGGish against the published pipelines' results."""

import numpy as np
import pytest
import soundfile
import torch
from golden import fixtures, load_arrays, load_json, reference_file, rule_parameter, uniform

from combo_avs.data.audio import SILENT_LOG_MEL, fit_seconds, log_mel, log_mel_examples, mel_matrix, resample
from combo_avs.data.wav import read_wav
from combo_avs.model.audio.vggish import VGGish, postprocess

WAVS = fixtures("audio", "wav/*.wav")
EXPECTED = load_json("audio", "expected") if WAVS else {}
FLOAT = [name for name in WAVS if EXPECTED[name]["subtype"] in ("FLOAT", "DOUBLE")]
INTEGER = [name for name in WAVS if name not in FLOAT]
WITH_EXAMPLES = [name for name in WAVS if EXPECTED[name]["n_examples"]]

# What the released pipelines do with a clip's examples, in our words.
PIPELINES = {
    "avsbench_object_pkl": "repeat_last",
    "avsbench_avss": "zero_log_mel",
    "avsegformer_avss": "zero_log_mel",
}
RELEASED = [
    (name, pipeline) for name in INTEGER for pipeline in PIPELINES if EXPECTED[name][pipeline]["result"] == "ok"
]


def read(name: str) -> np.ndarray:
    return read_wav(reference_file("audio", f"wav/{name}.wav"))


@pytest.mark.parametrize("name", [n for n in WAVS if EXPECTED[n]["sample_rate"] != 16000])
def test_resampled_waveform(name):
    samples, rate = soundfile.read(reference_file("audio", f"wav/{name}.wav"), always_2d=True)
    resampled = resample(samples.mean(axis=1), rate)
    assert len(resampled) == EXPECTED[name]["samples_at_16k"]
    expected = load_arrays("audio", "resampled_resampy043")[name]
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=6e-8)  # half a step of the stored float32


@pytest.mark.parametrize("name", INTEGER)
def test_log_mel(name):
    waveform, entry = read(name), EXPECTED[name]
    spectrogram = log_mel(waveform)
    assert len(log_mel_examples(waveform)) == (entry["n_examples"] or 0)
    assert len(spectrogram) == (entry["n_logmel_frames"] or 0)  # the published code fails below 240 samples
    if len(spectrogram):
        expected = load_arrays("audio", "logmel")[name]
        np.testing.assert_allclose(spectrogram, expected, rtol=0, atol=2.5e-7)  # half a step of the stored float32
        np.testing.assert_allclose(spectrogram.sum(), entry["logmel_sum_f64"], rtol=1e-10)
        np.testing.assert_allclose(spectrogram.min(), entry["logmel_min"], atol=1e-9)
        np.testing.assert_allclose(spectrogram.max(), entry["logmel_max"], atol=1e-9)


@pytest.mark.parametrize("name", FLOAT)
@pytest.mark.filterwarnings("ignore:.*float WAV")
def test_float_files_are_heard(name):
    """The published code reads all sound as 16-bit integers: float samples become 0, or 1/32768 near the
    peaks.

    We read what is there, so our log-mel of the same file is another one, and not nearly silent.
    """
    published = load_arrays("audio", "logmel")[name]
    integers, _ = soundfile.read(reference_file("audio", f"wav/{name}.wav"), dtype="int16")
    assert set(np.unique(integers)) <= {-1, 0, 1}
    np.testing.assert_allclose(log_mel(integers / 32768), published, rtol=0, atol=2.5e-7)
    ours = log_mel(read(name))
    assert ours.shape == published.shape
    assert ours.min() > published.max()
    assert published.max() < SILENT_LOG_MEL + 0.2


@pytest.mark.parametrize(("name", "pipeline"), RELEASED)
def test_clips_of_the_released_pipelines(name, pipeline):
    entry = EXPECTED[name][pipeline]
    examples = log_mel_examples(read(name))
    fitted, valid = fit_seconds(examples, entry["shape"][0], PIPELINES[pipeline])
    assert fitted[:, None].shape == tuple(entry["shape"])
    assert valid.sum() == len(examples)
    assert entry.get("nonzero_examples", len(examples)) == len(examples)
    np.testing.assert_allclose(fitted.sum(dtype=np.float64), entry["sum_f64"], rtol=1e-7, atol=1e-6)


def mix32(count: int, index: int) -> np.ndarray:
    """float64 in [-1, 1): a hash of the position and of the parameter's number."""
    h = np.arange(count, dtype=np.uint32)
    h += np.uint32(0x9E3779B9 * (index + 1) % 2**32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h / 2.0**31 - 1.0


@pytest.fixture(scope="module")
def shapes() -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: value.shape for key, value in VGGish().state_dict().items()}


def network(weights: dict[str, torch.Tensor]) -> VGGish:
    with torch.device("meta"):
        empty = VGGish()
    empty.load_state_dict(weights, assign=True)
    return empty.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mix32_network(shapes) -> VGGish:
    weights = {}
    for index, key in enumerate(sorted(shapes)):
        if key.endswith("bias"):
            scale = 0.05
        else:
            scale = (0.25 if key == "embeddings.4.weight" else 1.0) * np.sqrt(6 / shapes[key][1:].numel())
        values = (scale * mix32(shapes[key].numel(), index)).astype(np.float32)
        weights[key] = torch.from_numpy(values.reshape(shapes[key]))
    return network(weights)


def mel_examples(name: str) -> torch.Tensor:
    """float32 [n, 96, 64] from the fixture itself: a float file's are silent there."""
    count = EXPECTED[name]["n_examples"]
    return torch.from_numpy(load_arrays("audio", "logmel")[name][: count * 96].reshape(count, 96, 64))


@pytest.mark.parametrize("rule", fixtures("audio", "vggish_rule.json"))
def test_weight_rule(rule, mix32_network):
    weights = mix32_network.state_dict()
    for key, check in load_json("audio", rule)["check"].items():
        if key in weights:
            assert list(weights[key].shape) == check["shape"]
            np.testing.assert_allclose(weights[key].flatten()[:4], check["first4"], rtol=1e-6)
            np.testing.assert_allclose(weights[key].sum(dtype=torch.float64), check["sum_f64"], rtol=1e-6)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_embeddings(name, mix32_network):
    expected = load_arrays("audio", "embeddings_mix32")
    before_relu: list[torch.Tensor] = []
    hook = mix32_network.embeddings[-1].register_forward_pre_hook(lambda _, inputs: before_relu.append(inputs[0]))
    embeddings = mix32_network(mel_examples(name))
    hook.remove()
    np.testing.assert_allclose(embeddings, expected[f"{name}/emb"], rtol=0, atol=5e-6)
    # Larger than embeddings, so the last digits of float32 weigh more.
    np.testing.assert_allclose(before_relu[0], expected[f"{name}/pre_relu"], rtol=2e-6, atol=5e-6)


@pytest.mark.parametrize("archive", fixtures("audio", "embeddings_mix32.npz"))
def test_convolution_features(archive, mix32_network):
    suffix = "/conv_features_example0_CHW"
    arrays = load_arrays("audio", archive)
    names = [key.removesuffix(suffix) for key in arrays if key.endswith(suffix)]
    assert names
    for name in names:
        features = mix32_network.features(mel_examples(name)[:1, None])[0]
        np.testing.assert_allclose(features, arrays[name + suffix], rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_postprocessing(name):
    eigen_vectors = (np.sqrt(3 / 128) * mix32(128 * 128, 100)).astype(np.float32).reshape(128, 128)
    means = (0.3 + 0.2 * mix32(128, 101)).astype(np.float32)
    embeddings = load_arrays("audio", "embeddings_mix32")[f"{name}/emb"]
    quantised = postprocess(*map(torch.from_numpy, (embeddings, eigen_vectors, means)))
    expected = load_arrays("audio", "pca_mix32")[f"{name}/quantised"].astype(np.float32)
    off = np.abs(quantised.numpy() - expected)
    assert off.max() <= 1
    assert off.mean() <= 1e-3  # a value at the edge between two counts may fall either way


@pytest.mark.parametrize("name", fixtures("combo", "vggish.npz"))
def test_vggish_of_combo(name, shapes):
    spec, expected = load_json("combo", name), load_arrays("combo", name)
    assert {key: list(shape) for key, shape in shapes.items()} == spec["state_dict_shapes"]
    prefix, salt = spec["rule_prefix"], spec["salt"]
    vggish = network({key: torch.from_numpy(rule_parameter(prefix + key, tuple(s), salt)) for key, s in shapes.items()})
    x = (uniform("input:x", tuple(spec["input_shapes"]["x"]), salt) * 3 - 1).astype(np.float32)
    np.testing.assert_allclose(vggish(torch.from_numpy(x)), expected["out.y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", fixtures("combo", "logmel.npz"))
def test_log_mel_of_combo(name):
    arrays = load_arrays("combo", name)
    pcm = arrays["in.pcm"]
    mono = log_mel_examples(pcm / 32768)[:, None]
    np.testing.assert_allclose(mono, arrays["out.logmel_mono"], rtol=0, atol=1e-6)
    stereo = log_mel_examples((np.stack([pcm, pcm // 2], axis=1) / 32768).mean(axis=1))
    sampled = stereo.reshape(-1)[arrays["pos.logmel_stereo"]]
    np.testing.assert_allclose(sampled, arrays["out.logmel_stereo"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(mel_matrix()[:, ::9], arrays["out.mel_matrix"], rtol=0, atol=1e-12)
