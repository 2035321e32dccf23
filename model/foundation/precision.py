"""How exactly a frozen model computes: by name, the same on every device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def matrix_products(precision: Precision) -> Iterator[None]:
    """Products of float32 matrices and convolutions inside, on an NVIDIA GPU: TF32 for "tf32", else full float32.

    torch lets convolutions use TF32 unless told otherwise. What was set outside is restored.
    """
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolutions.allow_tf32
    matmul.allow_tf32 = convolutions.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        matmul.allow_tf32, convolutions.allow_tf32 = before
