"""Weight files of every make: read where they can be, else named for what they are. Nothing in them is run."""

import argparse
import collections
import datetime
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from combo_avs.errors import BadInput
from combo_avs.model.weights.frozen import WeightsConfig, load_frozen
from combo_avs.model.weights.published_keys import load_backbone
from combo_avs.model.weights.read import read_state_dict, read_state_dict_and_rest
from combo_avs.model.weights.state import load_weights, weights_sha256
from combo_avs.safe_pickle import is_harmless

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1, 2])}
AVERAGE = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
ARRAYS = {name: tensor.numpy() for name, tensor in WEIGHTS.items()}


def assert_read(path: Path, expected: dict[str, torch.Tensor] = WEIGHTS) -> None:
    found = read_state_dict(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in found)


def saved(content: Any, *, legacy: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, **ARRAYS)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.pkl", "weights"])
@pytest.mark.parametrize(
    "content",
    [saved(WEIGHTS), saved(WEIGHTS, legacy=True), save(WEIGHTS), npz(), pickle.dumps(ARRAYS, protocol=2)],
    ids=["torch", "torch before zip", "safetensors", "npz", "pickle of arrays"],
)
def test_the_contents_decide_not_the_name(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert_read(tmp_path / name)


@pytest.mark.parametrize("entry", ["model", "state_dict", "model_state_dict", "net", "state_dict_ema", "ema", "mine"])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_one_entry_with_tensors_is_found(tmp_path: Path, entry: str, *, legacy: bool) -> None:
    optimizer = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {"epoch": 3, entry: WEIGHTS, "optimizer": optimizer, "score": torch.tensor(0.5), "name": "x"}
    (tmp_path / "w.pth").write_bytes(saved(content, legacy=legacy))
    assert_read(tmp_path / "w.pth")
    assert read_state_dict_and_rest(tmp_path / "w.pth")[1] == ["epoch", "optimizer", "score", "name"]


def test_entries_within_entries(tmp_path: Path) -> None:
    torch.save({"average": {"decay": 0.9, "shadow": WEIGHTS}, "random": {"cuda": [torch.ones(2)]}}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth")


def test_known_names_go_before_others(tmp_path: Path) -> None:
    torch.save({"rng": {"torch": torch.ones(3, dtype=torch.uint8)}, "model": WEIGHTS}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth")


def test_which_of_several_is_asked_and_can_be_said(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"model": WEIGHTS, "ema": {"shadow": AVERAGE, "decay": 0.9}}, path)
    with pytest.raises(BadInput, match=r"(?s)several networks.*w\.pth#model \(2 tensors\)"):
        read_state_dict(path)
    assert_read(tmp_path / "w.pth#model", WEIGHTS)
    assert_read(tmp_path / "w.pth#ema.shadow", AVERAGE)
    with pytest.raises(BadInput, match=r"no weights called 'none'; it has model, ema\.shadow"):
        read_state_dict(tmp_path / "w.pth#none")
    hashes = {weights_sha256(tmp_path / name) for name in ("w.pth", "w.pth#model", "w.pth#ema.shadow")}
    assert len(hashes) == 3, "caches are named after them"
    path.rename(tmp_path / "w#1.pth")
    with pytest.raises(BadInput, match="several networks"):  # a sign in a file's own name is no choice
        read_state_dict(tmp_path / "w#1.pth")


def test_a_choice_of_entries_goes_through_to_a_frozen_model(tmp_path: Path) -> None:
    theirs, ours = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save({"model": nn.Linear(2, 3).state_dict(), "ema": theirs.state_dict()}, tmp_path / "w.pth")
    chosen = tmp_path / "w.pth#ema"
    assert load_frozen(ours, "sam-vit-b", WeightsConfig(weights=chosen)) == weights_sha256(chosen)
    assert torch.equal(ours.weight, theirs.weight)


def test_arrays_of_numpy_are_read_as_tensors(tmp_path: Path) -> None:
    fortran = {"f": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big": np.array([1, 256], ">i4")}
    torch.save({"model": ARRAYS | fortran}, tmp_path / "w.pth")
    as_tensors = {"f": torch.arange(6.0, dtype=torch.float64).view(2, 3), "big": torch.tensor([1, 256]).int()}
    assert_read(tmp_path / "w.pth", WEIGHTS | as_tensors)


class Config(dict):  # as configs of yacs, addict and mmengine are
    pass


class Slotted:
    def __init__(self) -> None:
        self.lr = 0.1


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=1, path=Path("x"), when=datetime.date(2024, 1, 1)),
        [Config(a=1, b=Config(c=[1, 2])), Slotted()],
        {"best": np.float64(1), "names": np.array(["x", "y"]), "objects": np.array([None, "x"], object)},
        {
            "d": collections.defaultdict(list, a=[1]),
            "q": collections.deque([1, 2]),
            "s": {1, 2},
            "r": range(3),
            "c": 1j,
        },
        nn.CrossEntropyLoss(),
    ],
    ids=["namespace", "configs", "numpy", "containers", "a loss"],
)
def test_harmless_objects_beside_the_weights_cost_nothing(tmp_path: Path, beside: Any) -> None:
    torch.save({"beside": beside, "model": WEIGHTS}, tmp_path / "w.pth")
    assert_read(tmp_path / "w.pth")
    assert read_state_dict_and_rest(tmp_path / "w.pth")[1] == ["beside"]


class Trap:
    """Calls any function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, exec, getattr, __import__, os.system, zipfile.main, open])
def test_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"trap": Trap(function, "sprung"), "model": WEIGHTS}, "w.pth")
    with pytest.raises(BadInput, match=rf"w\.pth.*asks for \S*{function.__name__}, which no tensor needs"):
        read_state_dict(Path("w.pth"))
    assert os.listdir() == ["w.pth"]


def test_what_is_harmless() -> None:
    for name in ("argparse.Namespace", "yacs.config.CfgNode", "__main__.Options", "pathlib._local.PosixPath"):
        assert is_harmless(name), name
    for name in ("os.system", "builtins.eval", "__builtin__.eval", "subprocess.Popen", "operator.attrgetter"):
        assert not is_harmless(name), name
    for name in ("posix.system", "functools.partial", "torch.hub.load", "numpy.load", "importlib.import_module"):
        assert not is_harmless(name), name


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("folder/weights.pth", b"x")
    return file.getvalue()


def script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), file)
    return file.getvalue()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"<html><head>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a git-lfs pointer.*git lfs pull"),
        (b"Not found\n", "a text that begins with 'not found'"),
        (b'{"error": "gated"}', "a text that begins with"),
        (bytes(5000), "nothing but zeros.*download it again"),
        (tar(), "a tar archive"),
        (zipped(), r"a zip archive \(folder/weights\.pth\)"),
        (b"\x1f\x8b\x08\x00", "a gzip archive"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (saved(WEIGHTS)[:900], "the beginning of a torch file, 900 bytes of it"),
        (saved(WEIGHTS, legacy=True)[:-30], "w.*(cut short|corrupted)"),
        (save(WEIGHTS)[:-1], "w.*cannot be read as weights"),
        (save(WEIGHTS)[:40], "w.*cannot be read as weights"),
        (pickle.dumps(ARRAYS)[:-9], "w.*damaged"),
        (saved([torch.ones(1)]), "holds a list, not tensors by name"),
        (saved(torch.ones(1)), "holds one tensor, not tensors by name"),
        (saved(nn.Linear(1, 1)), r"asks for torch\.nn|no tensors by name"),
        (saved({"epoch": 3}), "no tensors by name"),
        (saved({"a": torch.ones(1), "epoch": 3, "name": "x"}), r"(?s)epoch: a number.*name: a text"),
        (b"\x00\x01\x02\x03garbage", "neither a torch file nor safetensors"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, content: bytes, said: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said) as error:
        read_state_dict(tmp_path / name)
    for internal in ("_Unread", "_PassedOver", "_Loose", "Traceback", "weights_only", "GLOBAL"):
        assert internal not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_program_is_not_weights(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(script())
    with pytest.raises(BadInput, match="a TorchScript program, not weights"):
        read_state_dict(tmp_path / "w.pt")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read the weights .*w\.pth: No such file"):
        read_state_dict(tmp_path / "w.pth")
    with pytest.raises(BadInput, match="Is a directory"):
        read_state_dict(tmp_path)


class TestPrefixes:
    @pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module."])
    def test_are_taken_off_where_all_keys_fit_then(self, prefix: str) -> None:
        theirs, ours = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
        state = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
        with pytest.warns(UserWarning, match=r"w\.pth: its keys fit without '.*', which was left out"):
            load_weights(ours, state, "w.pth")
        assert torch.equal(ours[0].weight, theirs[0].weight)

    def test_of_a_compiled_part(self) -> None:
        ours = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        state = {name.replace("1.", "1._orig_mod."): tensor for name, tensor in ours.state_dict().items()}
        with pytest.warns(UserWarning, match="_orig_mod"):
            load_weights(ours, state, "w.pth")

    def test_stay_where_they_are_the_network_s_own(self, recwarn: pytest.WarningsRecorder) -> None:
        ours = nn.ModuleDict({"model": nn.Linear(2, 3)})
        load_weights(ours, ours.state_dict(), "w.pth")
        assert not recwarn

    def test_of_another_network_are_told_as_they_are(self) -> None:
        with pytest.raises(BadInput, match=r"(?s)missing: weight.*unexpected: module\.other"):
            load_weights(nn.Linear(2, 3), {"module.other": torch.ones(1)}, "w.pth")

    def test_before_keys_that_are_renamed(self, tmp_path: Path) -> None:
        theirs, ours = nn.Linear(2, 3), nn.Linear(2, 3)
        save_file({f"module.old_{k}": v for k, v in theirs.state_dict().items()}, tmp_path / "w.safetensors")
        config = WeightsConfig(weights=tmp_path / "w.safetensors")
        with pytest.warns(UserWarning, match="without 'module.'"):
            load_frozen(ours, "sam-vit-b", config, lambda state: {k.removeprefix("old_"): v for k, v in state.items()})
        assert torch.equal(ours.weight, theirs.weight)

    def test_of_a_backbone(self) -> None:
        from combo_avs.model.combo import COMBO
        from combo_avs.model.config import ModelConfig

        model = COMBO(ModelConfig(backbone="tiny", width=32, decoder_ffn=8, encoder_ffn=8, audio_hidden=8), 2)
        backbone = model.siam_encoder.image_backbone
        state = {f"module.{name}": tensor + 1 for name, tensor in backbone.state_dict().items()}
        with pytest.warns(UserWarning, match="without 'module.'"):
            load_backbone(model, state, "w.pth")
        assert all(torch.equal(tensor, state[f"module.{name}"]) for name, tensor in backbone.state_dict().items())
