"""Weights of frozen models: the right file or a message that helps, never a random network by accident."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from combo_avs.errors import BadInput
from combo_avs.model.audio import encoder
from combo_avs.model.weights.frozen import WeightsConfig, fixed_initialisation, load_frozen
from combo_avs.model.weights.registry import WEIGHT_FILES, find_weights, weights_folder

NAME = "semantic-sam-t"  # of which no hash is published, so that any file may stand for it
FILE = WEIGHT_FILES[NAME].file_name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMBO_WEIGHTS", str(tmp_path))
    return tmp_path


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def assert_equal_states(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


class TestLoad:
    def test_the_published_file_of_the_folder(self, folder: Path) -> None:
        theirs, ours = network(), network()
        torch.save(theirs.state_dict(), folder / FILE)
        sha256 = load_frozen(ours, NAME, WeightsConfig())
        assert sha256 == hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
        assert_equal_states(ours.state_dict(), theirs.state_dict())

    @pytest.mark.parametrize("as_text", [str, Path])
    def test_a_named_file_goes_before_it(self, folder: Path, as_text: type) -> None:
        theirs, ours = network(), network()
        torch.save({"not": "weights"}, folder / FILE)
        save_file(theirs.state_dict(), folder / "mine.safetensors")
        load_frozen(ours, NAME, WeightsConfig(weights=as_text(folder / "mine.safetensors")))
        assert_equal_states(ours.state_dict(), theirs.state_dict())

    def test_keys_of_others_are_converted(self, folder: Path) -> None:
        theirs, ours = network(), network()
        published = {f"model.{key}": tensor for key, tensor in theirs.state_dict().items()}
        torch.save({"model": published | {"model.criterion.empty_weight": torch.ones(2)}}, folder / FILE)
        load_frozen(
            ours,
            NAME,
            WeightsConfig(),
            convert=lambda state: {k.removeprefix("model."): v for k, v in state.items() if "criterion" not in k},
        )
        assert_equal_states(ours.state_dict(), theirs.state_dict())


class TestRefused:
    @pytest.mark.parametrize("name", WEIGHT_FILES)
    def test_missing(self, name: str, folder: Path) -> None:
        with pytest.raises(BadInput) as error:
            load_frozen(network(), name, WeightsConfig())
        file = WEIGHT_FILES[name]
        for piece in (name, str(folder / file.file_name), f"{file.megabytes} MB", file.url, f"weights fetch {name}"):
            assert piece in str(error.value)

    def test_missing_where_the_user_says(self, folder: Path) -> None:
        torch.save(network().state_dict(), folder / FILE)
        with pytest.raises(BadInput, match=r"elsewhere\.pt.*combo weights fetch semantic-sam-t"):
            load_frozen(network(), NAME, WeightsConfig(weights=str(folder / "elsewhere.pt")))

    def test_of_another_model(self, folder: Path) -> None:
        torch.save(nn.Sequential(nn.Linear(3, 5)).state_dict(), folder / FILE)
        ours = network()
        before = {key: tensor.clone() for key, tensor in ours.state_dict().items()}
        with pytest.raises(BadInput, match=rf"(?s){FILE}.*0\.bias has shape \[5\].*missing: 1\.weight"):
            load_frozen(ours, NAME, WeightsConfig())
        assert_equal_states(ours.state_dict(), before)

    @pytest.mark.parametrize("kept", [0, 100, -1])
    def test_truncated(self, folder: Path, kept: int) -> None:
        torch.save(network().state_dict(), folder / FILE)
        (folder / FILE).write_bytes((folder / FILE).read_bytes()[:kept])
        with pytest.raises(BadInput, match=rf"{FILE} .*(empty|the beginning of a torch file)"):
            load_frozen(network(), NAME, WeightsConfig())

    def test_a_changed_byte_of_a_published_file(self, folder: Path) -> None:
        file = folder / WEIGHT_FILES["mobile-sam"].file_name
        torch.save(network().state_dict(), file)
        with pytest.raises(BadInput, match=r"not the published file.*6dbb9052.*combo weights fetch mobile-sam"):
            load_frozen(network(), "mobile-sam", WeightsConfig())
        load_frozen(network(), "mobile-sam", WeightsConfig(weights=file))

    def test_a_text_file(self, folder: Path) -> None:
        (folder / FILE).write_text("<!DOCTYPE html>" * 99)
        with pytest.raises(BadInput, match="a web page") as error:
            load_frozen(network(), NAME, WeightsConfig())
        assert "weights_only" not in str(error.value)

    def test_trained_and_untrained(self, folder: Path) -> None:
        with pytest.raises(BadInput, match="untrained and weights=mine"):
            load_frozen(network(), NAME, WeightsConfig(weights="mine.pt", untrained=True))


class TestUntrained:
    def test_always_the_same_network(self) -> None:
        states = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            with fixed_initialisation():
                module = network()
            assert load_frozen(module, NAME, WeightsConfig(untrained=True)) is None
            states.append(module.state_dict())
        assert_equal_states(*states)

    def test_the_random_state_outside_stays(self) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        with fixed_initialisation():
            network()
        assert torch.equal(torch.rand(3), expected)

    def test_the_name_says_so(self) -> None:
        assert WeightsConfig(untrained=True).name("mobile-sam") == "untrained-mobile-sam"
        assert WeightsConfig().name("mobile-sam") == "mobile-sam"


class TestTable:
    def test_entries_can_be_fetched_and_told_apart(self) -> None:
        files = list(WEIGHT_FILES.values())
        assert len({file.file_name for file in files}) == len(files)
        for name, file in WEIGHT_FILES.items():
            assert name == file.name
            assert file.url.startswith("https://")
            assert file.url.endswith((f"/{file.file_name}", "/resolve/main/model.safetensors"))
            assert file.size is None or abs(file.size / 1e6 - file.megabytes) <= 1
            assert file.sha256 is None or (len(file.sha256) >= 8 and int(file.sha256, 16) > 0)

    @pytest.mark.parametrize("name", ["vggish", "vggish-pca", "resnet50"])
    def test_hashes_begin_as_the_file_names_say(self, name: str) -> None:
        file = WEIGHT_FILES[name]
        assert Path(file.file_name).stem.rsplit("-", 1)[1] == file.sha256[:8]

    def test_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COMBO_WEIGHTS", "~/somewhere")
        assert weights_folder() == Path.home() / "somewhere"
        monkeypatch.delenv("COMBO_WEIGHTS")
        assert weights_folder() == Path.home() / ".cache/combo-avs/weights"

    def test_a_home_in_a_named_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "my.pt").touch()
        assert find_weights(NAME, "~/my.pt") == tmp_path / "my.pt"


def test_vggish_looks_in_the_folder(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"vggish-10086976\.pth.*combo weights fetch vggish"):
        encoder("vggish", {})
    (folder / "vggish-10086976.pth").write_bytes(b"not weights")
    with pytest.raises(BadInput, match=r"vggish-10086976\.pth .*a text that begins with 'not weights'"):
        encoder("vggish", {})
