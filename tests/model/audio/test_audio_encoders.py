"""Audio encoders: the contract for each, and what each does beyond it."""

import os
from pathlib import Path

import pytest
import torch
from contracts import AudioEncoderContract, seconds, tone
from safetensors.torch import save_file

from combo_avs.errors import BadInput
from combo_avs.model.audio import ENCODERS, encoder
from combo_avs.model.audio.vggish import VGGish, VggishEncoder, plain_float32, postprocess


@pytest.fixture(scope="module")
def vggish_weights() -> dict[str, torch.Tensor]:
    """Random weights that keep the signal's size from layer to layer."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in VGGish().state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in shapes.items():
        bound = (6 / shape[1:].numel()) ** 0.5 if len(shape) > 1 else 0.05
        weights[key] = torch.empty(shape).uniform_(-bound, bound, generator=draw)
    return weights


@pytest.fixture(scope="module")
def vggish_file(vggish_weights, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vggish") / "vggish-10086976.pth"
    torch.save(vggish_weights, path)
    return path


@pytest.fixture(scope="module")
def vggish(vggish_file) -> VggishEncoder:
    return encoder("vggish", {"weights": str(vggish_file)})


class TestVggish(AudioEncoderContract):
    @pytest.fixture
    def encoder(self, vggish):
        return vggish

    def test_features_are_not_negative(self, encoder):
        features = encoder(*seconds(tone(440)))
        assert features.min() == 0
        assert features.max() > 0

    def test_weights_are_frozen(self, encoder):
        assert not encoder.network.training
        assert not any(parameter.requires_grad for parameter in encoder.network.parameters())

    def test_network_takes_a_channel_axis(self, encoder):
        log_mel, _ = seconds(tone(440))
        assert torch.equal(encoder.network(log_mel[:2]), encoder.network(log_mel[:2, None]))

    def test_more_seconds_than_one_pass_holds(self, encoder):
        log_mel, waveform = seconds(tone(700, beats=1.3))
        few, many = encoder(log_mel, waveform), encoder(log_mel.repeat(9, 1, 1), waveform.repeat(9, 1))
        assert many.shape == (72, 128)
        assert (many - few.repeat(9, 1)).abs().max() <= 1e-5 * few.max()

    def test_autocast_around_it_changes_nothing(self, encoder):
        inputs = seconds(tone(440))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(encoder(*inputs), encoder(*inputs))
            under_autocast = encoder(*inputs)
        assert torch.equal(under_autocast, encoder(*inputs))

    def test_safetensors_with_unused_matrices(self, encoder, vggish_weights, tmp_path):
        path = tmp_path / "vggish.safetensors"
        extra = {"pproc.pca_eigen_vectors": torch.eye(128), "pproc.pca_means": torch.zeros(128, 1)}
        save_file(vggish_weights | extra, path)
        other = ENCODERS["vggish"].build(ENCODERS["vggish"].config(weights=path))
        assert torch.equal(other(*seconds(tone(440))), encoder(*seconds(tone(440))))
        assert other.weights_sha256 != encoder.weights_sha256


class TestLogMel(AudioEncoderContract):
    @pytest.fixture
    def encoder(self):
        return encoder("logmel", {})

    def test_silence_is_zero(self, encoder):
        assert not encoder(torch.full((2, 96, 64), -4.60517018598809), torch.zeros(2, 16_000)).any()

    def test_means_are_quarters_above_silence_and_deviations_those_of_all_steps(self, encoder):
        log_mel = torch.randn(2, 96, 64, generator=torch.Generator().manual_seed(0))
        mean, deviation = encoder(log_mel, torch.zeros(2, 16_000)).split(64, dim=1)
        torch.testing.assert_close(mean, (log_mel.mean(1) + 4.605170186) / 4)
        torch.testing.assert_close(deviation, log_mel.std(1, correction=0))

    def test_a_tone_shows_in_its_band(self, encoder):
        low, high = (encoder(*seconds(tone(hertz)))[0, :64].argmax() for hertz in (200, 2000))
        assert low < 10 < 30 < high

    def test_a_mixture_shows_both_timbres(self, encoder):
        """The loud bands of each source stay loud in the mixture."""
        low, high, both = (encoder(*seconds(w))[0, :64] for w in (tone(200), tone(2000), tone(200) + tone(2000)))
        for source in (low, high):
            loudest = source.topk(3).indices
            assert (both[loudest] > 0.9 * source[loudest]).all()

    def test_beats_show_as_deviation(self, encoder):
        steady, beating = (encoder(*seconds(tone(440, beats=b)))[0, 64:] for b in (0, 4))
        assert beating.mean() > 5 * steady.mean()


def test_wrong_weights_are_listed_key_by_key(tmp_path):
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in VGGish().state_dict().items()}
    weights = {key: torch.zeros(shape) for key, shape in shapes.items() if "embeddings" not in key}
    weights["features.0.weight"] = torch.zeros(64, 3, 3, 3)
    weights["features.3.bias"][5] = torch.nan
    weights["classifier.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "wrong.pth")
    with pytest.raises(BadInput) as error:
        encoder("vggish", {"weights": tmp_path / "wrong.pth"})
    message = str(error.value)
    assert "wrong.pth" in message
    assert "missing: embeddings.0.weight" in message
    assert "missing: embeddings.4.bias" in message
    assert "unexpected: classifier.weight" in message
    assert "features.0.weight has shape [64, 3, 3, 3], the network needs [64, 1, 3, 3]" in message
    assert "features.3.bias has values that are not finite" in message


class Payload:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", None])
def test_files_that_are_no_weights(content, ending, tmp_path):
    path = tmp_path / f"broken.{ending}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match="broken"):
        encoder("vggish", {"weights": path})


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"features.0.weight": Payload()}])
def test_pickles_of_other_things(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "other.pth")
    with pytest.raises(BadInput, match=r"other\.pth"):
        encoder("vggish", {"weights": "other.pth"})
    assert not Path("executed").exists()


def test_postprocess_is_a_projection_to_bytes():
    rotation = torch.eye(128).flip(0)
    embeddings = torch.linspace(-5, 5, 128).expand(1, 128)
    quantised = postprocess(embeddings, rotation, torch.zeros(128, 1))
    assert quantised.shape == (1, 128)
    assert quantised[0, 0] == 255
    assert quantised[0, -1] == 0
    assert torch.equal(quantised, quantised.round())


def test_postprocess_projects_what_is_left_of_the_means():
    """One number in a hundred and twenty-eight: 2 x + y less the means, from -2..2 to 0..255."""
    vectors, means = torch.zeros(128, 128), torch.zeros(128, 1)
    vectors[5, 0], vectors[5, 1], means[0] = 2.0, 1.0, 0.25
    embeddings = torch.zeros(3, 128)
    embeddings[:, 0], embeddings[:, 1] = torch.tensor([0.25, 0.5, -3.0]), torch.tensor([0.0, 0.7, 0.0])
    found = postprocess(embeddings, vectors, means)
    assert found[:, 5].tolist() == [128, 204, 0]  # 127.5 is rounded half to even; 1.2 becomes 3.2 / 4 * 255
    assert (found[:, 6] == 128).all()


@pytest.mark.parametrize("before", ["high", "highest"])
def test_float32_is_plain_inside_and_as_it_was_outside(before):
    outside = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with torch.autocast("cpu"), plain_float32(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.is_autocast_enabled("cpu")
            assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(outside)


def test_unknown_names_and_parameters():
    with pytest.raises(BadInput, match=r"is called 'vgg'; known: ast, logmel, vggish; did you mean vggish\?"):
        encoder("vgg", {})
    with pytest.raises(BadInput, match=r"weight: no such parameter; did you mean weights\?"):
        encoder("vggish", {"weight": "vggish.pth"})
    with pytest.raises(BadInput, match="bands: no such parameter"):
        encoder("logmel", {"bands": 32})
