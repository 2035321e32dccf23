"""Published checkpoints into our files and back; every tensor of a made-up checkpoint holds a number of its own."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from combo_avs.errors import BadInput, ComboError
from combo_avs.model.audio.vggish import VGGish
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.weights.network_file import load_network, network_config, network_metadata, read_header
from combo_avs.model.weights.published_keys import published_config, to_published
from combo_avs.model.weights.read import read_state_dict
from combo_avs.pipeline.weights import convert as weights
from combo_avs.pipeline.weights.convert import convert_weights

SMALL = {
    "siam": "none",
    "width": 32,
    "num_queries": 6,
    "audio_hidden": 8,
    "encoder_layers": 1,
    "encoder_ffn": 24,
    "decoder_layers": 2,
    "decoder_ffn": 16,
}


def config_of(**changes) -> ModelConfig:
    return ModelConfig(**{**SMALL, "audio_queries": "published", **changes})


def numbered(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The i-th tensor holds i throughout, in half precision; stored as one number each."""
    return {k: torch.tensor(float(i), dtype=torch.half).expand(t.shape) for i, (k, t) in enumerate(state.items())}


def published_state(num_classes: int = 2, vggish: bool = False, **changes) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        network = COMBO(config_of(**changes), num_classes).state_dict()
        sound = VGGish().state_dict() if vggish else None
    empty_weight = torch.tensor([1.0] * num_classes + [0.1])
    return numbered(to_published(network, sound)) | {"criterion.empty_weight": empty_weight}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the published code saves its best model; without VGGish."""
    path = tmp_path_factory.mktemp("official") / "model_best.pth"
    trainer = {"hooks": {"lr": [1e-4]}, "best": np.float64(0.8), "scores": np.ones(2)}
    torch.save({"model": published_state(siam="separate"), "trainer": trainer, "iteration": 4999}, path)
    return path


@pytest.fixture(scope="module")
def ours(official: Path) -> Path:
    path = official.with_name("ours.safetensors")
    convert_weights(official, path)
    return path


def assert_equal_states(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype, key
        assert torch.equal(a[key], b[key]), key


class TestThereAndBack:
    @pytest.mark.parametrize("name", ["back.pth", "back.safetensors"])
    def test_without_vggish(self, official: Path, ours: Path, tmp_path: Path, name: str) -> None:
        report = convert_weights(ours, tmp_path / name, "published")
        assert "--vggish" in report
        assert_equal_states(read_state_dict(tmp_path / name), read_state_dict(official))
        assert os.listdir(tmp_path) == [name]

    def test_with_vggish(self, tmp_path: Path) -> None:
        source, out, back = tmp_path / "in.pth", tmp_path / "out.safetensors", tmp_path / "back.pth"
        torch.save(published_state(vggish=True, siam="separate"), source)  # not wrapped
        report = convert_weights(source, out)
        assert "18 of VGGish" in report
        assert str(tmp_path / "out.vggish.safetensors") in report
        assert not any(key.startswith("audio_backbone") for key in load_file(out))
        convert_weights(out, back, "published", vggish=tmp_path / "out.vggish.safetensors")
        assert_equal_states(torch.load(back, weights_only=True)["model"], read_state_dict(source))

    def test_a_checkpoint_without_class_weights_gets_none(self, tmp_path: Path) -> None:
        state = published_state(siam="separate")
        del state["criterion.empty_weight"]
        torch.save(state, tmp_path / "in.pth")
        convert_weights(tmp_path / "in.pth", tmp_path / "out.safetensors")
        convert_weights(tmp_path / "out.safetensors", tmp_path / "back.pth", "published")
        assert_equal_states(read_state_dict(tmp_path / "back.pth"), state)

    def test_weights_of_a_run_of_ours(self, ours: Path, tmp_path: Path) -> None:
        """Without metadata and away from their run, the config comes from the shapes."""
        save_file(load_file(ours), tmp_path / "model.safetensors")
        report = convert_weights(tmp_path / "model.safetensors", tmp_path / "official.pth", "published")
        assert "audio_queries" in report
        found = read_state_dict(tmp_path / "official.pth")
        torch.testing.assert_close(found["criterion.empty_weight"], torch.tensor([1.0, 1.0, 0.1]))
        assert published_config(found) == (config_of(siam="separate"), 2)


class TestReport:
    def test_what_was_found_is_told(self, official: Path, tmp_path: Path) -> None:
        report = convert_weights(official, tmp_path / "new" / "ours.safetensors")
        for words in (
            "r50",
            "siam separate",
            "fusion bilateral",
            "2 classes (s4 or ms3)",
            "trainer, iteration",
            "no VGGish",
        ):
            assert words in report
        state = published_state(siam="separate")
        assert f"{len(state)} tensors: {len(state) - 1} of the network" in report

    def test_the_file_says_what_it_is_of(self, ours: Path) -> None:
        header = read_header(ours)
        assert header["config"] == config_of(siam="separate")
        assert header["num_classes"] == 2
        assert header["task"] == "s4 or ms3"
        model = load_network(ours)
        assert model.config == config_of(siam="separate")
        assert not model.training
        assert model.decoder.class_embed.bias.shape == (3,)
        assert model.decoder.class_embed.bias.unique().numel() == 1

    def test_equal_checkpoints_give_equal_bytes(self, official: Path, ours: Path, tmp_path: Path) -> None:
        convert_weights(official, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == ours.read_bytes()

    def test_other_files_are_not_taken_for_converted_ones(self, official: Path, ours: Path, tmp_path: Path) -> None:
        save_file(load_file(ours), tmp_path / "plain.safetensors")
        with pytest.raises(BadInput, match=r"(?s)plain\.safetensors.*combo weights convert"):
            load_network(tmp_path / "plain.safetensors")
        with pytest.raises(BadInput, match=r"model_best\.pth"):
            load_network(official)
        with pytest.raises(BadInput, match=r"gone\.safetensors"):
            load_network(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"fusion": "none"},
        {"fusion": "visual"},
        {"siam": "shared"},
        {"siam": "separate"},
        {"queries": "dim"},
        {"heads": 4, "width": 64, "audio_dim": 40},
        {"mask_dim": 64},
        {"backbone": "pvt-v2-b5"},
    ],
    ids=str,
)
def test_the_configuration_is_read_off_the_shapes(changes: dict) -> None:
    assert published_config(published_state(7, **changes)) == (config_of(**changes), 7)


def test_the_configuration_of_networks_that_were_never_published() -> None:
    for changes in ({"backbone": "tiny"}, {"fusion": "audio"}):
        config = config_of(**changes, audio_queries="per_frame")
        with torch.device("meta"):
            state = COMBO(config, 3).state_dict()
        assert network_config(state) == (config, 3)


class TestRefusals:
    def refused(self, state: dict[str, torch.Tensor], folder: Path, **options) -> str:
        """The message, once it is sure that nothing was written and an old file kept."""
        source, out = folder / "in.pth", folder / "out.safetensors"
        torch.save({"model": state}, source)
        out.write_bytes(b"the old one")
        with pytest.raises(BadInput) as error:
            convert_weights(source, out, **options)
        assert out.read_bytes() == b"the old one"
        assert sorted(os.listdir(folder)) == ["in.pth", "out.safetensors"]
        assert "in.pth" in str(error.value)
        return str(error.value)

    def test_every_difference_is_listed_under_its_published_name(self, tmp_path: Path) -> None:
        state = published_state(vggish=False)
        predictor = "sem_seg_head.predictor."
        del state[predictor + "decoder_norm.bias"], state["backbone.res3.1.conv2.weight"]
        state[predictor + "class_embed.bias"] = torch.ones(9)
        state[predictor + "query_feat.weight"] = torch.full((6, 32), torch.nan)
        state[predictor + "static_query.weight"] = state["surprise"] = torch.ones(1)
        state["criterion.empty_weight"] = torch.ones(5)
        message = self.refused(state, tmp_path)
        for words in (
            f"missing: {predictor}decoder_norm.bias",
            "missing: backbone.res3.1.conv2.weight",
            f"{predictor}class_embed.bias has shape [9], the network needs [3]",
            f"{predictor}query_feat.weight has values that are not finite",
            f"unexpected: {predictor}static_query.weight",
            "unexpected: surprise",
            "criterion.empty_weight has shape [5], the network needs [3]",
        ):
            assert words in message

    def test_one_missing_key_of_a_fusion_is_one_missing_key(self, tmp_path: Path) -> None:
        state = published_state()
        key = "sem_seg_head.fusion_module.b_attn.attn_list.0.out_v_proj.weight"
        del state[key]
        assert self.refused(state, tmp_path).count("  - ") == 1

    def test_a_file_of_something_else(self, tmp_path: Path) -> None:
        assert "no COMBO network" in self.refused({"layer.weight": torch.ones(2)}, tmp_path)
        assert "holds no tensors" in self.refused({}, tmp_path)

    def test_impossible_sizes(self, tmp_path: Path) -> None:
        state = published_state()
        state["sem_seg_head.predictor.query_embed.weight"] = torch.ones(6, 33)
        assert "width = 33" in self.refused(state, tmp_path)

    def test_part_of_a_vggish(self, tmp_path: Path) -> None:
        state = published_state()
        state["audio_backbone.features.0.bias"] = torch.ones(64)
        message = self.refused(state, tmp_path)
        assert "missing: embeddings.4.weight" in message
        assert message.count("  - ") == 17

    @pytest.mark.parametrize("preset", ["avss-r50", "s4-pvt", "tiny"])
    def test_weights_of_another_preset(self, tmp_path: Path, preset: str) -> None:
        message = self.refused(published_state(), tmp_path, preset=preset)
        assert "r50 with 2 classes" in message
        assert preset in message

    def test_the_right_preset(self, official: Path, tmp_path: Path) -> None:
        convert_weights(official, tmp_path / "out.safetensors", preset="ms3-r50")
        with pytest.raises(BadInput, match="no preset"):
            convert_weights(official, tmp_path / "out.safetensors", preset="ms4")

    @pytest.mark.parametrize("size", [0, 100, 0.5, 0.999])
    def test_a_file_that_is_cut_short(self, official: Path, tmp_path: Path, size: float) -> None:
        data = official.read_bytes()
        (tmp_path / "cut.pth").write_bytes(data[: size if isinstance(size, int) else int(len(data) * size)])
        with pytest.raises(BadInput, match=r"cut\.pth"):
            convert_weights(tmp_path / "cut.pth", tmp_path / "out.safetensors")
        assert os.listdir(tmp_path) == ["cut.pth"]

    def test_code_beside_the_weights(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Trap:
            def __reduce__(self) -> tuple:
                return (os.mkdir, ("sprung",))

        monkeypatch.chdir(tmp_path)
        torch.save({"model": {}, "trainer": Trap()}, tmp_path / "trap.pth")
        with pytest.raises(BadInput, match=r"trap\.pth.*asks for posix\.mkdir"):
            convert_weights(tmp_path / "trap.pth", tmp_path / "out.safetensors")
        assert os.listdir(tmp_path) == ["trap.pth"]

    def test_targets(self, official: Path, ours: Path, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"must end in \.safetensors"):
            convert_weights(official, tmp_path / "out.pth")
        with pytest.raises(BadInput, match=r"must end in \.pth or \.safetensors"):
            convert_weights(ours, tmp_path / "out.bin", "published")
        with pytest.raises(BadInput, match="name another one"):
            convert_weights(ours, ours.parent / "." / ours.name, "published")
        with pytest.raises(BadInput, match="--to published"):
            convert_weights(official, tmp_path / "out.safetensors", vggish=ours)

    @pytest.mark.parametrize("siam", ["none", "shared"])
    def test_networks_without_a_maskige_backbone_of_their_own(self, tmp_path: Path, siam: str) -> None:
        with torch.device("meta"):
            network = COMBO(config_of(siam=siam), 2).state_dict()
        torch.save(numbered(network), tmp_path / "mine.pth")
        report = convert_weights(tmp_path / "mine.pth", tmp_path / "out.pth", "published")
        state = torch.load(tmp_path / "out.pth", weights_only=True)["model"]
        images = {key for key in state if key.startswith("backbone.")}
        maskiges = {key for key in state if key.startswith("pre_sam_backbone.")}
        assert images
        assert any(key.startswith("scale_factor_module.") for key in state) == (siam == "shared")
        if siam == "none":
            assert not maskiges
            assert "switch the Maskige branch of the published code off" in report
            assert published_config(state)[0].siam == "none"
        else:
            assert maskiges == {"pre_sam_" + key for key in images}
            assert "stands in it twice" in report
            assert all(torch.equal(state[key], state["pre_sam_" + key]) for key in images)
            assert published_config(state)[0].siam == "separate"

    @pytest.mark.parametrize("changes", [{"backbone": "tiny"}, {"fusion": "audio"}, {"audio_dim": 64}], ids=str)
    def test_networks_that_the_published_code_lacks(self, tmp_path: Path, changes: dict) -> None:
        with torch.device("meta"):
            state = numbered(COMBO(config_of(**{"siam": "separate", **changes}), 2).state_dict())
        torch.save(state, tmp_path / "mine.pth")
        with pytest.raises(BadInput, match=" ".join(map(str, *changes.items()))) as error:
            convert_weights(tmp_path / "mine.pth", tmp_path / "out.pth", "published")
        assert str(error.value).count("  - ") == 1

    def test_a_network_that_fits_but_computes_something_else(self, ours: Path, tmp_path: Path) -> None:
        """Raw residuals have the same weights: only the config tells."""
        raw = config_of(siam="separate", fusion_residual="raw")
        save_file(load_file(ours), tmp_path / "mine.safetensors", metadata=network_metadata(raw, 2))
        with pytest.raises(BadInput, match="fusion_residual raw"):
            convert_weights(tmp_path / "mine.safetensors", tmp_path / "out.pth", "published")
        assert not (tmp_path / "out.pth").exists()

    def test_a_network_of_ours_with_a_key_too_few(self, ours: Path, tmp_path: Path) -> None:
        state = load_file(ours)
        del state["pixel_decoder.smooth.0.weight"]
        save_file(state, tmp_path / "mine.safetensors")
        with pytest.raises(BadInput, match=r"(?s)mine\.safetensors.*missing: pixel_decoder\.smooth\.0\.weight"):
            convert_weights(tmp_path / "mine.safetensors", tmp_path / "out.pth", "published")


def test_an_old_file_survives_a_failing_disk(official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(_, path: Path, **__) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("No space left on device")

    (tmp_path / "out.safetensors").write_bytes(b"the old one")
    monkeypatch.setattr(weights, "save_file", half)
    with pytest.raises(ComboError, match=r"out\.safetensors could not be written: No space left"):
        convert_weights(official, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["out.safetensors"]


def test_training_state_of_older_numpy(tmp_path: Path) -> None:
    """Its numbers are under names that NumPy has given up since."""
    file = io.BytesIO()
    torch.save(
        {"model": {"a": torch.ones(2)}, "best": np.float64(1), "rows": np.ones(3)},
        file,
        _use_new_zipfile_serialization=False,
    )
    data = file.getvalue()
    assert b"numpy._core." in data
    (tmp_path / "old.pth").write_bytes(data.replace(b"numpy._core.", b"numpy.core."))
    assert list(read_state_dict(tmp_path / "old.pth")) == ["a"]
