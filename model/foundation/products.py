"""Matrix products: as fast as the processor allows, and as exact as a generator's `precision` asks for.

On a CPU torch multiplies float32 matrices by MKL, which leaves half of the vector units of AMD processors unused.
oneDNN, which torch ships as well, does not: the products below take 0.45 times as long there (EPYC, Zen 5). Sums are
added up in another order, nothing else differs. On other devices, and for other types, they are torch's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def matrix_products(precision: Precision) -> Iterator[None]:
    """Products of float32 matrices and convolutions inside, on an NVIDIA GPU: TF32 for "tf32", else full float32.

    torch lets convolutions use TF32 unless told otherwise. What was set outside is restored.
    """
    backends: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast to the 16-bit type of `precision`; disabled for fp32 and tf32."""
    return torch.autocast(device.type, TYPES[precision], enabled=precision in ("bf16", "fp16"))


def _by_onednn(x: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    # The products below know neither gradients nor autocast.
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return on_cpu and plain and torch.backends.mkldnn.is_available()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias. x: [..., I], weight: [O, I], bias: [O]."""
    if _by_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The exact GELU of `linear`."""
    if _by_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")
    return F.gelu(F.linear(x, weight, bias))


def product(a_GMI: Tensor, b_GNI: Tensor) -> Tensor:
    """a @ b.T for each of G pairs, transposed views welcome: [G, M, I] and [G, N, I] to [G, M, N]."""
    if _by_onednn(a_GMI):
        products = [linear(a, b) for a, b in zip(a_GMI, b_GNI, strict=True)]
        return products[0][None] if len(products) == 1 else torch.stack(products)
    return torch.bmm(a_GMI, b_GNI.transpose(1, 2))
