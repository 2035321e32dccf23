"""Weights in and out: renaming, refusing, reading files; tests/parity has the published key lists."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from combo_avs.errors import BadInput
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.weights.published_keys import from_published, load_backbone, to_published
from combo_avs.model.weights.read import read_state_dict
from combo_avs.model.weights.state import load_weights


def small(**changes) -> COMBO:
    sizes = {"width": 32, "audio_hidden": 8, "encoder_layers": 1, "decoder_layers": 2, "decoder_ffn": 8}
    return COMBO(ModelConfig(**{"backbone": "tiny", "num_queries": 3} | sizes | changes), 2)


@pytest.mark.parametrize(
    ("backbone", "siam", "fusion"),
    [
        ("pvt-v2-b5", "separate", "bilateral"),
        *(("r50", siam, "bilateral") for siam in ("none", "shared", "separate")),
        *(("r50", "none", fusion) for fusion in ("none", "visual", "audio")),
    ],
)
def test_renaming_and_back_changes_nothing(backbone, siam, fusion):
    with torch.device("meta"):
        state = small(backbone=backbone, siam=siam, fusion=fusion).state_dict()
    published = to_published(state)
    assert not published.keys() & state.keys()
    assert from_published(published).network.keys() == state.keys()


def test_vggish_and_class_weights_are_split_off():
    state = {"audio_backbone.features.0.bias": torch.ones(2), "criterion.empty_weight": torch.ones(3)}
    network, vggish, empty_weight = from_published(state)
    assert network == {}
    assert list(vggish) == ["features.0.bias"]
    assert empty_weight is state["criterion.empty_weight"]
    assert to_published(network, vggish, empty_weight) == state


def test_unknown_keys_are_all_named():
    with pytest.raises(BadInput, match=r"(?s)backbone\.fc\.weight.*surprise"):
        from_published({"backbone.fc.weight": torch.ones(1), "surprise": torch.ones(1)})
    with pytest.raises(BadInput, match=r"(?s)decoder\.what.*surprise"):
        to_published({"decoder.what": torch.ones(1), "surprise": torch.ones(1)})


def test_every_difference_is_named_and_nothing_is_loaded():
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    del state["0.bias"]
    state |= {"1.bias": torch.ones(5), "2.bias": torch.ones(2)}
    with pytest.raises(BadInput) as error:
        load_weights(module, state, "weights.pth")
    for words in ("weights.pth", "missing: 0.bias", "unexpected: 2.bias", "1.bias has shape [5]"):
        assert words in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize("siam", ["none", "shared", "separate"])
def test_one_torchvision_resnet_fills_both_backbones(siam):
    torch.manual_seed(0)
    classifier = torchvision.models.resnet50().eval()
    for name, buffer in classifier.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    model = small(backbone="r50", siam=siam).eval()
    load_backbone(model, classifier.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        x = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(images))))
        expected = [x := getattr(classifier, f"layer{i}")(x) for i in (1, 2, 3, 4)]
        for name in ("image_backbone", "maskige_backbone"):
            backbone = getattr(model.siam_encoder, name)
            assert (backbone is None) == (name == "maskige_backbone" and siam != "separate")
            if backbone is not None:
                torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("backbone", "timm_name"), [("r50", "resnet50"), ("pvt-v2-b5", "pvt_v2_b5")], ids=["r50", "pvt"]
)
def test_backbone_names_of_timm_and_of_the_releases(backbone, timm_name):
    with torch.device("meta"):
        model = small(backbone=backbone)
        classifier = timm.create_model(timm_name, pretrained=False)
    load_backbone(model, classifier.state_dict())
    published = to_published(model.state_dict())
    released = {k.removeprefix("backbone."): v for k, v in published.items() if k.startswith("backbone.")}
    assert len(released) == len(model.siam_encoder.image_backbone.state_dict())
    load_backbone(model, released | {"head.weight": torch.ones(1), "fc.bias": torch.ones(1)})


def torchvision_name(key: str) -> str:
    return key  # the names of our own ResNet-50


def detectron2_name(key: str) -> str:
    stage, _, rest = key.partition(".")
    if not stage.startswith("layer"):
        return "stem." + key.replace("bn1", "conv1.norm")
    rest = rest.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    for i in (1, 2, 3):
        rest = rest.replace(f"bn{i}", f"conv{i}.norm")
    return f"res{int(stage[5:]) + 1}.{rest}"


def timm_pvt_name(key: str) -> str:
    return key.replace("stages_", "stages.")


def released_pvt_name(key: str) -> str:
    if key.startswith("patch_embed."):
        return key.replace("patch_embed.", "patch_embed1.")
    stage, part, rest = key.removeprefix("stages_").split(".", 2)
    number = int(stage) + 1
    if part == "blocks":
        return f"block{number}.{rest}".replace("mlp.dwconv", "mlp.dwconv.dwconv")
    return f"{'patch_embed' if part == 'downsample' else part}{number}.{rest}"


FAMILIES = {  # file name, backbone, names, and what the classifier adds to them
    "torchvision": ("resnet50-11ad3fa6.pth", "r50", torchvision_name, ("fc.weight", "bn1.num_batches_tracked")),
    "timm": ("model.safetensors", "r50", torchvision_name, ("fc.bias", "layer1.0.bn1.num_batches_tracked")),
    "detectron2": ("R-50.pkl", "r50", detectron2_name, ("stem.fc.weight", "res2.0.conv1.norm.num_batches_tracked")),
    "pvt release": ("pvt_v2_b5.pth", "pvt-v2-b5", released_pvt_name, ("head.weight", "head.bias")),
    "pvt timm": ("model.safetensors", "pvt-v2-b5", timm_pvt_name, ("head.weight",)),
}


def write_family(folder: Path, family: str) -> tuple[Path, COMBO, dict[str, float]]:
    """A file whose i-th tensor holds i; a network that needs such a file; and what each of its tensors must become."""
    file_name, backbone, name, more = FAMILIES[family]
    with torch.device("meta"):
        model = small(backbone=backbone)
    shapes = {key: tensor.shape for key, tensor in model.siam_encoder.image_backbone.state_dict().items()}
    expected = {key: float(i) for i, key in enumerate(shapes)}
    state = {name(key): torch.full(shape, expected[key], dtype=torch.half) for key, shape in shapes.items()}
    assert len(state) == len(shapes)
    state |= {key: torch.ones(()) for key in more}
    path = folder / file_name
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".pkl":
        arrays = {key: tensor.numpy() for key, tensor in state.items()}
        content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(state, path)
    return path, model, expected


@pytest.mark.parametrize("family", FAMILIES)
def test_backbone_files_of_every_family(tmp_path: Path, family):
    path, model, expected = write_family(tmp_path, family)
    siam_encoder = model.siam_encoder.to_empty(device="cpu")
    load_backbone(model, read_state_dict(path), path)
    for backbone in (siam_encoder.image_backbone, siam_encoder.maskige_backbone):
        for key, tensor in backbone.state_dict().items():
            assert (tensor == expected[key]).all(), key


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_is_wrong_with_a_backbone_file_is_listed(tmp_path: Path, family):
    path, model, _ = write_family(tmp_path, family)
    name: Callable[[str], str] = FAMILIES[family][2]
    state = read_state_dict(path)
    kept = list(model.siam_encoder.image_backbone.state_dict())
    del state[name(kept[0])], state[name(kept[-1])]
    state |= {name(kept[7]): torch.ones(9), "surprise.weight": torch.ones(1)}
    with pytest.raises(BadInput) as error:
        load_backbone(model, state, path)
    for words in (
        path.name,
        f"missing: {kept[0]}",
        f"missing: {kept[-1]}",
        f"{kept[7]} has shape [9]",
        "unexpected: surprise.weight",
    ):
        assert words in str(error.value)
    assert str(error.value).count("  - ") == 4


def test_a_backbone_that_does_not_fit_is_refused():
    model = small()
    state = dict(model.siam_encoder.image_backbone.state_dict())
    state["layer9.weight"] = state.pop("bn1.weight")
    with pytest.raises(BadInput, match=r"(?s)mine\.pth.*missing: bn1\.weight.*unexpected: layer9\.weight"):
        load_backbone(model, state, "mine.pth")


WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.int64)}


@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
def test_torch_files_are_read(tmp_path: Path, wrap):
    path = tmp_path / "weights.pth"
    torch.save(WEIGHTS if wrap is None else {wrap: WEIGHTS, "iteration": 7}, path)
    found = read_state_dict(path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)


def test_safetensors_files_are_read(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file(WEIGHTS, path)
    assert torch.equal(read_state_dict(path)["a.weight"], WEIGHTS["a.weight"])


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


def test_no_code_in_a_weight_file_is_run(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": WEIGHTS, "trap": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("trap.pth", "plain.pkl"):
        with pytest.raises(BadInput, match=rf"{name}.*asks for \S*getattr"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "missing.pth", "list.pth", "mixed.pth"])
def test_other_files_are_refused_by_name(tmp_path: Path, name):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 not all of it")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"a": torch.ones(1), "epoch": 3}, tmp_path / "mixed.pth")
    with pytest.raises(BadInput, match=name):
        read_state_dict(tmp_path / name)
