"""Array pickles are read; whatever else a pickle asks for is refused, and nothing in it runs."""

import collections
import io
import pickle
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from combo_avs.safe_pickle import MAX_TENSOR, read_array_pickle, read_tensor_pickle

ARRAYS = {
    "plain": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "number": np.float32(2.5),
    "counter": np.array(7),
    "half": np.ones(2, np.float16),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def older_numpy(data: bytes) -> bytes:
    """The same pickle as NumPy 1 writes it; only for protocols that end names by newlines."""
    return data.replace(b"numpy._core.", b"numpy.core.")


class TestArrays:
    @pytest.mark.parametrize("protocol", range(6))
    def test_every_protocol(self, tmp_path: Path, protocol: int) -> None:
        path = tmp_path / "R-50.pkl"
        wrapped = {"model": ARRAYS, "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(wrapped, protocol))
        found = read_array_pickle(path)
        assert list(found) == list(ARRAYS)
        for key, expected in ARRAYS.items():
            np.testing.assert_array_equal(found[key], expected, strict=False)
            assert found[key].shape == np.shape(expected)
            assert found[key].dtype == np.asarray(expected).dtype.newbyteorder("=")
            assert torch.from_numpy(found[key].reshape(-1)).numel() == np.size(expected)

    @pytest.mark.parametrize("protocol", [0, 2, 3])
    def test_numpy_1(self, tmp_path: Path, protocol: int) -> None:
        path = tmp_path / "R-50.pkl"
        path.write_bytes(older_numpy(pickle.dumps({"model": ARRAYS}, protocol)))
        np.testing.assert_array_equal(read_array_pickle(path)["plain"], ARRAYS["plain"])

    def test_python_2_wrote_bytes_as_text(self, tmp_path: Path) -> None:
        raw = np.array([1.5, -2.0], "<f4").tobytes()
        program = (
            b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            b"\x89U\x08" + raw + b"tbs."
        )
        path = tmp_path / "old.pkl"
        path.write_bytes(program)
        assert read_array_pickle(path)["w"].tolist() == [1.5, -2.0]

    def test_ordered_and_unwrapped(self, tmp_path: Path) -> None:
        path = tmp_path / "plain.pkl"
        path.write_bytes(pickle.dumps(collections.OrderedDict(ARRAYS), 2))
        assert list(read_array_pickle(path)) == list(ARRAYS)

    @pytest.mark.parametrize(
        "content",
        [
            [ARRAYS["plain"]],
            {"a": 3},
            {1: ARRAYS["plain"]},
            {"objects": np.array([{}], object)},
            {"records": np.zeros(2, [("a", "f4")])},
            {"text": np.array(["a"])},
        ],
        ids=["list", "number", "unnamed", "objects", "records", "text"],
    )
    def test_other_contents_are_refused_by_name(self, tmp_path: Path, content: Any) -> None:
        path = tmp_path / "other.pkl"
        path.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(ValueError, match=r"other\.pkl"):
            read_array_pickle(path)


class TestTensors:
    @pytest.mark.parametrize("protocol", range(6))
    def test_a_tensor_that_was_pickled_without_torch_save(self, tmp_path: Path, protocol: int) -> None:
        tensor = torch.randn(5, 1, 96, 64, requires_grad=True) * 2
        path = tmp_path / "clip.pkl"
        path.write_bytes(pickle.dumps(tensor, protocol))
        np.testing.assert_array_equal(read_tensor_pickle(path), tensor.detach().numpy())

    def test_a_part_of_a_storage(self, tmp_path: Path) -> None:
        path = tmp_path / "part.pkl"
        path.write_bytes(pickle.dumps(torch.arange(12.0).view(4, 3)[1:3]))
        assert read_tensor_pickle(path).tolist() == [[3, 4, 5], [6, 7, 8]]

    @pytest.mark.parametrize("tensor", [torch.zeros(4, 3).T, torch.zeros(1).expand(1 << 40)], ids=["strided", "huge"])
    def test_tensors_larger_than_or_scattered_in_their_storage(self, tmp_path: Path, tensor: torch.Tensor) -> None:
        path = tmp_path / "odd.pkl"
        path.write_bytes(pickle.dumps(tensor))
        with pytest.raises(ValueError, match=r"odd\.pkl.*storage"):
            read_tensor_pickle(path)

    def test_other_contents(self, tmp_path: Path) -> None:
        path = tmp_path / "list.pkl"
        path.write_bytes(pickle.dumps([torch.ones(1)]))
        with pytest.raises(ValueError, match=r"list\.pkl does not hold one tensor"):
            read_tensor_pickle(path)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def touching(marker: Path) -> dict[str, Any]:
    """Programs each of which would make the file `marker`, or would have to call what is forbidden on the way."""
    import os

    code = f"open({str(marker)!r}, 'w').close()"
    nested = io.BytesIO()
    torch.save({"x": Call(os.system, f"touch {marker}")}, nested, _use_new_zipfile_serialization=False)
    load = torch.storage._load_from_bytes
    return {
        "os.system": Call(os.system, f"touch {marker}"),
        "eval": Call(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
        "exec": Call(exec, code),
        "open": Call(open, str(marker), "w"),
        "Popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "tofile": Call(np.ndarray.tofile, np.ones(1), str(marker)),
        "save": Call(np.save, str(marker), np.ones(1)),
        "memmap": Call(np.memmap, str(marker), "u1", "w+", 0, (8,)),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "torch.load": Call(torch.load, str(marker)),
        "within a tensor": Call(load, nested.getvalue()),
        "within a dict": {"model": {"w": ARRAYS["plain"], "x": Call(os.system, f"touch {marker}")}},
        "as state": collections.OrderedDict(x=Call(os.system, f"touch {marker}")),
    }


@pytest.mark.parametrize("read", [read_array_pickle, read_tensor_pickle])
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", touching(Path()))
def test_nothing_is_run(tmp_path: Path, read: Callable[[Path], Any], name: str, protocol: int) -> None:
    path, marker = tmp_path / "trap.pkl", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(touching(marker)[name], protocol))
    with pytest.raises(ValueError, match=r"trap\.pkl asks for \S+"):
        read(path)
    assert [p.name for p in tmp_path.iterdir()] == ["trap.pkl"]


def test_the_traps_would_work(tmp_path: Path) -> None:
    """Else the test above would prove nothing."""
    marker = tmp_path / "sprung"
    for name in ("os.system", "eval", "exec", "open", "save", "memmap", "within a dict", "within a tensor"):
        try:
            pickle._loads(pickle.dumps(touching(marker)[name], 2))
        finally:
            made = [p for p in tmp_path.iterdir() if p.name.startswith("sprung")]
            assert made, name
            made[0].unlink()


def test_the_forbidden_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "trap.pkl"
    path.write_bytes(pickle.dumps(touching(tmp_path / "sprung")["within a tensor"]))
    with pytest.raises(ValueError, match=r"posix\.system within a tensor"):
        read_tensor_pickle(path)
    path.write_bytes(pickle.dumps(Call(eval, "1"), 2))
    with pytest.raises(ValueError, match=r"__builtin__\.eval"):
        read_array_pickle(path)


PROGRAMS = {  # by hand: what no Pickler writes
    "registered extension": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02Pos.system\n.",
    "old style instance": b"(ios\nsystem\n.",
    "object of a class": b"(cposix\nsystem\nX\x04\x00\x00\x00trueo.",
    "new object": b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.",
    "altered function": b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01sb.",
    "altered slots": b"\x80\x02cnumpy\nndarray\nN}X\x09\x00\x00\x00_functionK\x01s\x86b.",
    "attribute of an allowed name": b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__class__.x\x93.",
    "memory for the memo": b"\x80\x02K\x00r\xff\xff\xff\x7f0}.",
    "memory for bytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "memory for text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "memory by bytes()": b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
    "memory by ndarray()": b"\x80\x02cnumpy\nndarray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x85R.",
    "endless nesting": b"\x80\x02}()" + b"\x85" * 1_000_000 + b"K\x01u.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "no pickle": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("read", [read_array_pickle, read_tensor_pickle])
def test_programs_that_no_pickler_writes(tmp_path: Path, read: Callable[[Path], Any], program: bytes) -> None:
    path = tmp_path / "odd.pkl"
    path.write_bytes(program)
    with pytest.raises(ValueError, match=r"odd\.pkl"):
        read(path)


def test_reading_still_works_after_an_attempt_to_alter_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    for program in (PROGRAMS["altered function"], PROGRAMS["altered slots"], pickle.dumps(ARRAYS)):
        path.write_bytes(program)
        if program[:2] == b"\x80\x02":
            with pytest.raises(ValueError, match="alter"):
                read_array_pickle(path)
    assert len(read_array_pickle(path)) == len(ARRAYS)


def test_an_array_must_have_the_bytes_that_its_shape_needs(tmp_path: Path) -> None:
    path = tmp_path / "short.pkl"
    data = pickle.dumps({"w": np.zeros((3, 4), np.uint8)}, 2)
    for shape in (b"K\x03K\x7f\x86", b"J\xff\xff\xff\xffK\x04\x86"):
        path.write_bytes(data.replace(b"K\x03K\x04\x86", shape))
        with pytest.raises(ValueError, match=r"short\.pkl"):
            read_array_pickle(path)


def inner_pickle(tensor: torch.Tensor) -> bytes:
    """What a pickled tensor hands to torch.storage._load_from_bytes."""
    _, (data,) = tensor._typed_storage().__reduce__()
    return data


def test_a_storage_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    data = inner_pickle(torch.zeros(100))
    count = b"cpuq\x03Kd"
    assert data.count(count) == 1
    forged = data.replace(count, b"cpuq\x03\x8a\x06\x00\x00\x00\x00\x00\x10")
    path = tmp_path / "bomb.pkl"
    path.write_bytes(pickle.dumps(Call(torch.storage._load_from_bytes, forged)))
    with pytest.raises(ValueError, match=r"bomb\.pkl"):
        read_tensor_pickle(path)


def test_archives_within_a_tensor_are_not_opened(tmp_path: Path) -> None:
    archive = io.BytesIO()
    torch.save(torch.zeros(3), archive)
    path = tmp_path / "zip.pkl"
    path.write_bytes(pickle.dumps(Call(torch.storage._load_from_bytes, archive.getvalue())))
    with pytest.raises(ValueError, match=r"zip\.pkl.*a tensor without its bytes"):
        read_tensor_pickle(path)


def test_large_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "large.pkl"
    with path.open("wb") as file:
        file.truncate(MAX_TENSOR + 1)
    with pytest.raises(ValueError, match=r"large\.pkl is larger than 16 MiB"):
        read_tensor_pickle(path)
    with pytest.raises(ValueError, match=r"gone\.pkl: No such file"):
        read_tensor_pickle(tmp_path / "gone.pkl")
