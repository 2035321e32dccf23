"""Pickle files that hold arrays, read without running anything in them.

A pickle is a program that may call whatever it names. Here every name that it may use stands for one of the few
functions below, none of which touches anything outside; all other names are refused. Two kinds of files are known:
detectron2's weights (NumPy arrays by name) and the log-mel spectrograms of AVSBench (one torch tensor). Torch's own
files are torch's to read, with the stand-ins for NumPy's names from here.
"""

import io
import math
import pickle
import pickletools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

MAX_WEIGHTS = 2 << 30  # bytes of a file; ResNet-101 has 180 MB
MAX_TENSOR = 16 << 20  # bytes of a file; ten seconds of log-mel have 250 kB
# Steps of the program; R-50.pkl has about 8,000. Few enough that values cannot nest deep enough to exhaust the stack.
MAX_STEPS = 50_000


def read_array_pickle(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name from a pickle of NumPy arrays, such as detectron2's `R-50.pkl`.

    The arrays may be wrapped in a "model" entry; other entries beside that one are left out. Any pickle protocol, any
    NumPy version, also Python 2. Returns writable arrays in native byte order.
    Raises ValueError naming the file, and the function that it asks for if that is no array's.
    """
    content = _read(path, MAX_WEIGHTS, _ARRAYS)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no arrays by name")
    others = [str(key)[:80] for key, value in content.items() if not (isinstance(key, str) and _is_array(value))]
    if others:
        raise ValueError(f"{path} holds entries that are not arrays: {', '.join(others)}")
    return {key: value.array for key, value in content.items()}


def read_tensor_pickle(path: Path) -> np.ndarray:
    """The one torch tensor of a pickle written without torch.save, such as AVSBench's `audio_log_mel/*.pkl`.

    Raises ValueError naming the file, and the function that it asks for if that is no tensor's.
    """
    content = _read(path, MAX_TENSOR, _TENSORS)
    if not _is_array(content):
        raise ValueError(f"{path} does not hold one tensor")
    return content.array


def _read(path: Path, limit: int, allowed: dict[str, Callable[..., Any]]) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    if len(data) > limit:
        raise ValueError(f"{path} is larger than {limit >> 20} MiB, the most that is read of its kind")
    try:
        _check_steps(io.BytesIO(data))
        return _Unpickler(io.BytesIO(data), allowed).load()
    except _Refused as error:
        raise ValueError(f"{path} asks for {error}, which no array needs. It may be harmful; nothing was run") from None
    except Exception as error:  # a hostile or damaged file can fail in any way
        raise ValueError(f"{path} is not a pickle of arrays, or is damaged: {error}") from error


def _check_steps(file: BinaryIO) -> None:
    """Refuse programs that promise more bytes than they hold, number their values absurdly, or do not end."""
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if step > MAX_STEPS or ("PUT" in opcode.name and argument is not None and argument > MAX_STEPS):
            raise ValueError(f"it takes over {MAX_STEPS:,} steps")


class _Refused(Exception):
    """The pickle names a function that it may not use."""


class _Unpickler(pickle.Unpickler):
    """Looks names up in `allowed`, and nowhere else."""

    def __init__(self, file: BinaryIO, allowed: dict[str, Callable[..., Any]]) -> None:
        super().__init__(file, encoding="latin1")  # Python 2 wrote bytes as text
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> "_Named":
        if f"{module}.{name}" not in self._allowed:
            raise _Refused(f"{module}.{name}"[:200])
        return _Named(self._allowed[f"{module}.{name}"])


class _Named:
    """What a name in a pickle stands for: it can be called, and not be altered."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it tries to alter a function")


class _Type:
    """Stands for a numpy.dtype while the pickle is read: a number type of 1 to 8 bytes."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>=|]?(?:b1|[iu][1248]|f[248])", code):
            raise ValueError("it holds arrays of something other than plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if len(state) < 5 or any(part is not None for part in state[2:5]):
            raise ValueError("it holds arrays of records")
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in ("<", ">") else "|")


class _Array:
    """Stands for a numpy.ndarray, a tensor or its storage while the pickle is read."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        _, shape, type_, fortran, raw = state
        self.array = _from_buffer(raw, type_, shape, "F" if fortran else "C").array


def _is_array(value: Any) -> bool:
    return isinstance(value, _Array) and isinstance(value.array, np.ndarray)


def _from_buffer(raw: Any, type_: Any, shape: Any, order: str) -> _Array:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes | bytearray) or not isinstance(type_, _Type):
        raise ValueError("an array without its bytes or its type")
    values = np.frombuffer(raw, type_.dtype).reshape(_sizes(shape), order="F" if order == "F" else "C")
    return _Array(values.astype(type_.dtype.newbyteorder("=")))


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("a shape that is none")
    return shape


def _scalar(type_: Any, raw: Any) -> _Array:
    return _from_buffer(raw, type_, (), "C")


def _encode(text: str, encoding: str) -> bytes:
    """How protocols 0 to 2 write bytes."""
    if encoding != "latin1":
        raise ValueError("text in another encoding than latin1")
    return text.encode("latin1")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


def _no_bytes() -> bytes:
    """How protocol 2 writes the bytes of an empty array. A number as argument would mean memory: not taken."""
    return b""


def _storage(raw: Any) -> _Array:
    """torch.storage._load_from_bytes, which unpickles again, with all the powers of a pickle; here it has none."""
    import torch

    if not isinstance(raw, bytes) or raw.startswith(b"PK"):  # no archives: they may be compressed
        raise ValueError("a tensor without its bytes")
    try:
        storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise _Refused((name[1] if name else "something") + " within a tensor") from None
    return _Array(torch.empty(0, dtype=storage.dtype).set_(storage).numpy())


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_flags: Any) -> _Array:
    if not _is_array(storage):
        raise ValueError("a tensor without its numbers")
    count = math.prod(_sizes(shape))
    contiguous = tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))
    if _sizes(strides) != contiguous or type(offset) is not int or not 0 <= offset <= storage.array.size - count:
        raise ValueError("a tensor that does not lie in its storage from end to end")
    return _Array(storage.array[offset : offset + count].reshape(shape))


_ARRAYS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encode,
    "__builtin__.bytes": _no_bytes,
    **{  # NumPy 2 renamed core
        f"numpy.{core}.{name}": function
        for core in ("core", "_core")
        for name, function in (
            ("multiarray._reconstruct", lambda *_: _Array()),
            ("multiarray.scalar", _scalar),
            ("numeric._frombuffer", _from_buffer),
        )
    },
}
_TENSORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "_codecs.encode": _encode,
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
}


class _LooseType(_Type):
    """A `_Type` for arrays beside weights, which may be of anything: others than plain numbers have no type."""

    def __init__(self, code: Any, *flags: Any) -> None:
        try:
            super().__init__(code, *flags)
        except ValueError:
            self.dtype = np.dtype("V")

    def __setstate__(self, state: Any) -> None:
        try:
            super().__setstate__(state)
        except ValueError:
            self.dtype = np.dtype("V")


class _LooseArray(_Array):
    """An `_Array` that stays empty where it cannot be read as plain numbers."""

    def __setstate__(self, state: Any) -> None:
        try:
            super().__setstate__(state)
        except ValueError:
            self.array = None


def _loose_scalar(type_: Any, raw: Any) -> _Array:
    try:
        return _scalar(type_, raw)
    except ValueError:
        return _LooseArray()


# (stand-in, name) of NumPy's functions, as `torch.serialization.safe_globals` takes them. `array_of` reads the results.
ARRAY_NAMES: list[tuple[Callable[..., Any], str]] = [
    (_LooseArray, "numpy.ndarray"),
    (_LooseType, "numpy.dtype"),
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for name, function in (("_reconstruct", lambda *_: _LooseArray()), ("scalar", _loose_scalar))
    ),
]

# Names of the standard library that options, configs and paths beside the weights are made of.
_HARMLESS = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    "collections.defaultdict",
    "collections.deque",
    "collections.Counter",
    "uuid.UUID",
    "decimal.Decimal",
    "fractions.Fraction",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    *(f"builtins.{name}" for name in ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list")),
    *(f"builtins.{name}" for name in ("object", "range", "set", "str", "tuple")),
}
_HARMLESS_MODULES = ("datetime", "enum", "pathlib", "typing")


def array_of(value: Any) -> np.ndarray | None:
    """The array that a stand-in of `ARRAY_NAMES` has become; None for anything else."""
    return value.array if _is_array(value) else None


def is_harmless(name: str) -> bool:
    """Whether something that does nothing may stand for a name that a pickle asks for, such as argparse.Namespace.

    Classes of other packages are: nothing of them is looked up. Of the standard library only those that hold values.
    """
    module = name.partition(".")[0]
    if module in _HARMLESS_MODULES or name in _HARMLESS or name.startswith(("torch.nn.modules.", "torch.optim.")):
        return True
    return module not in sys.stdlib_module_names and module not in ("__builtin__", "numpy", "torch", "copy_reg")
