"""The arithmetic of steps: float32 or a faster format of GPUs, operation by operation or as compiled code.

Operands of binary convolutions are +1, -1 and 0, which TF32 (11 significant bits) and bfloat16 (8) hold exactly, and
sums are taken in float32. So with TF32 forward results of binary convolutions are the same to the bit. It rounds the
operands of float convolutions, and incoming gradients in backward ones. With bfloat16 the results are rounded as well:
sums of more than 256 are no longer exact. float16 (11 bits) has them exact up to 2,048, but ends at 65,504 and at 6e-8.
So the loss is multiplied by a factor, which keeps small gradients from becoming 0. A step whose gradients overflow is
left out and halves the factor.
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.training.recipes import check_known


def memory_format_of(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the layout in memory of images and weights in training and evaluation: channels last, as a rule.

    GPUs' tensor cores want it. On a CPU a step takes a fifth less time in it, of BNAS-Mini and of its float twin
    (tests/bench/train_speed.py).

    On CPUs oneDNN, as PyTorch 2.13 has it, writes past the end of its buffer where it computes the gradient of the
    weights of a 1x1 convolution with a stride, in channels last and with AVX2, if there are fewer channels than floats
    in a vector. We met it with 2 to 6 input channels, and strides of 2, 3 and 4; padding, groups or a 3x3 kernel did
    no harm. A network that has such a convolution is computed with its channels first.
    """
    if device.type == "cpu" and any(_writes_past_its_end(layer) for layer in network.modules()):
        return torch.contiguous_format
    return torch.channels_last


FLOATS_IN_A_VECTOR = 8
"""Of AVX2."""


def _writes_past_its_end(layer: nn.Module) -> bool:
    sizes = (getattr(layer, name, None) for name in ("kernel_size", "stride", "in_channels"))
    match tuple(sizes):
        case ((1, 1), (int(down), int(across)), int(channels)):
            return max(down, across) > 1 and channels < FLOATS_IN_A_VECTOR
    return False


MIXED = {"bfloat16": torch.bfloat16, "float16": torch.float16}
"""The type of operands and results in mixed precision, by the name of the arithmetic."""


def mixed(arithmetic: str, device: torch.device) -> torch.autocast:
    """Return the context in which a network runs in an arithmetic."""
    return torch.autocast(device.type, MIXED.get(arithmetic, torch.bfloat16), enabled=arithmetic in MIXED)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let GPUs round the operands of float32 convolutions and products to TF32, or not.

    PyTorch by itself lets cuDNN do so.
    """
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def compiled(network: nn.Module, device: torch.device) -> Callable[..., Any]:
    """Return what computes the same as `network`, from code that is made when it is first called, per shape.

    On a GPU the code runs as CUDA graphs, which are launched as a whole.
    """
    if device.type != "cuda":
        return torch.compile(network, dynamic=False)
    graphs = torch.compile(network, mode="reduce-overhead", dynamic=False)

    def run(*inputs: Any) -> Any:
        # What the call before returned may be overwritten from here on.
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return graphs(*inputs)

    return run


def find_device(name: str) -> torch.device:
    """Return the device that `--device` means.

    Raises:
        BnasError: a GPU was asked for and PyTorch finds none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise BnasError(
            "--device cuda: PyTorch finds no CUDA GPU here; use --device cpu, or install a PyTorch for your GPU"
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def check_arithmetic(arithmetic: str, device: torch.device) -> None:
    """Make sure that a device can compute so.

    Raises:
        BnasError: it cannot, or there is no such arithmetic.
    """
    check_known(arithmetic)
    if arithmetic == "tf32" and device.type != "cuda":
        raise BnasError("--arithmetic tf32: a CPU has no TF32; use float32 or bfloat16, or --device cuda")
    if arithmetic == "float16" and device.type != "cuda":
        raise BnasError(
            "--arithmetic float16: CPUs convert it to float32 and back, which takes longer than float32; use float32 "
            "or bfloat16, or --device cuda"
        )
    if arithmetic in ("tf32", "bfloat16") and device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major < _AMPERE:
            raise BnasError(
                f"--arithmetic {arithmetic}: {torch.cuda.get_device_name(device)} has compute capability "
                f"{major}.{minor}, and {_AMPERE}.0 is needed; use float32"
            )


_AMPERE = 8


def check_compiler(device: torch.device) -> None:
    """Make sure that torch.compile has what it needs to make code for a device.

    Raises:
        BnasError: something is missing.
    """
    compiler = os.environ.get("CXX", "g++")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing, mend = "Triton", "install it with pip install triton"
    elif shutil.which(compiler) is None:
        missing, mend = f"a C++ compiler ({compiler})", "install one (Debian: apt install g++) or name one in CXX"
    elif not header.exists():
        missing, mend = f"{header}", "install Python's headers (Debian: apt install python3-dev)"
    else:
        return
    raise BnasError(f"--compile: PyTorch needs {missing}, which is not here; {mend}, or leave --compile out")
