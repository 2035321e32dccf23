"""Files of the published system: checkpoint key lists through the converter, log-mel pickles, Maskige pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json, reference_folders
from PIL import Image

from combo_avs.data.sources.maskige_tree import read_maskige
from combo_avs.model.combo import COMBO
from combo_avs.model.weights.published_keys import from_published, published_config, to_published
from combo_avs.model.weights.read import read_state_dict
from combo_avs.pipeline.weights.convert import convert_weights
from combo_avs.safe_pickle import read_tensor_pickle


@pytest.mark.parametrize("name", fixtures("combo", "state_dict_*.json"))
def test_the_configuration_of_every_published_network(name):
    spec = load_json("combo", name)
    state = {key: torch.empty(shape, device="meta") for key, shape in spec["keys"].items()}
    config, num_classes = published_config(state, name)
    assert num_classes == spec["num_classes"]
    assert config.backbone == ("pvt-v2-b5" if "PVTV2B5" in spec["config"] else "r50")
    assert config.fusion == ("bilateral" if any(".b_attn." in key for key in spec["keys"]) else "none")
    assert (config.siam, config.queries, config.audio_queries) == ("separate", "add", "published")

    with torch.device("meta"):
        network = COMBO(config, num_classes).state_dict()
    _, vggish, empty_weight = from_published(state)
    again = to_published(network, vggish, empty_weight)
    assert {key: list(tensor.shape) for key, tensor in again.items()} == spec["keys"]


@pytest.mark.slow
@pytest.mark.parametrize("name", fixtures("combo", "state_dict_*.json"))
def test_a_whole_checkpoint_there_and_back(tmp_path: Path, name):
    spec = load_json("combo", name)
    numbers = (torch.tensor(float(i % 2000), dtype=torch.half) for i in range(len(spec["keys"])))
    state = {key: number.expand(shape) for (key, shape), number in zip(spec["keys"].items(), numbers, strict=True)}
    state["criterion.empty_weight"] = torch.tensor([1.0] * spec["num_classes"] + [0.1])
    torch.save({"model": state, "iteration": 1}, tmp_path / "in.pth")
    convert_weights(tmp_path / "in.pth", tmp_path / "ours.safetensors")
    vggish = tmp_path / "ours.vggish.safetensors"
    convert_weights(tmp_path / "ours.safetensors", tmp_path / "back.pth", "published", vggish=vggish)
    found = read_state_dict(tmp_path / "back.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


PICKLES = sorted(p for folder in reference_folders("audio") for p in (folder / "pkl").glob("*.pkl"))


@pytest.mark.parametrize("path", PICKLES, ids=lambda p: p.stem)
def test_published_log_mel_pickles(path):
    log_mel = read_tensor_pickle(path)
    assert log_mel.dtype == np.float32
    assert log_mel.shape in ((5, 1, 96, 64), (10, 1, 96, 64))
    assert np.isfinite(log_mel).all()
    assert log_mel.min() >= np.float32(np.log(0.01))


CASES = [
    (name, key.removeprefix("out.rgb224."))
    for name in fixtures("combo", "maskige.npz")
    for key in load_arrays("combo", name)
    if key.startswith("out.rgb224.")
]


@pytest.mark.parametrize(("name", "case"), CASES)
def test_pictures_as_the_published_code_saves_them(tmp_path, name, case):
    """A palette of 150 colours, whatever the highest index."""
    arrays = load_arrays("combo", name)
    image = Image.fromarray(arrays[f"out.idx224.{case}"])
    image.putpalette(bytes(np.ravel(load_json("combo", "ade20k_palette")["palette"]).tolist()))
    image.save(tmp_path / "1_mask_color.png")
    assert np.array_equal(read_maskige(tmp_path / "1_mask_color.png"), arrays[f"out.rgb224.{case}"])


PICTURES = [
    (name, key.removeprefix("png."))
    for name in fixtures("combo", "maskige.npz")
    for key in load_arrays("combo", name)
    if key.startswith("png.")
]


@pytest.mark.parametrize(("name", "case"), PICTURES)
def test_published_maskige_pictures(tmp_path, name, case):
    arrays = load_arrays("combo", name)
    path = tmp_path / f"{case}_mask_color.png"
    path.write_bytes(arrays[f"png.{case}"].tobytes())
    assert np.array_equal(read_maskige(path), arrays[f"out.rgb224.{case}"])
