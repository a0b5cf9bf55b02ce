"""Where an encoder computes: the CPU, or the CUDA device that torch takes first, and what a CUDA device asks for.

On CUDA the library picks a kernel by the shape of a product, so all products have one number of rows; see
docs/decisions/same-vector-in-any-batch.md for how a text keeps its bits there.
"""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch

from engine.errors import OptionError, OverloadError, WorkerError
from engine.protocol import DEVICES

CUDA_ROWS = 512
"""Rows of every product on CUDA; fewer are filled up. As long as the longest text, and enough to occupy the device."""
CUDA_BATCH_TOKENS = 8192
"""Most tokens of a batch on CUDA, where nothing has to stay in a cache. Chosen without measurement."""

_loaded_in: dict[int, int] = {}
"""By thread, the process in which it last loaded an encoder; a fork is one thread's, and has its number."""


def refuse_fork() -> None:
    """Refuse to load where torch would wait for ever: for threads of the process that this one is a fork of.

    Raises:
        WorkerError: this thread loaded an encoder before the fork, and torch shares its work among threads.
    """
    process, thread = os.getpid(), threading.get_ident()
    before = _loaded_in.get(thread, process)
    if before != process and torch.get_num_threads() > 1:
        raise WorkerError(
            f"An encoder was loaded in process {before}, and this is a fork of it, in which torch would wait for ever "
            "for threads that stayed there. Start processes by 'spawn' (multiprocessing.get_context), and load an "
            "encoder in each."
        )
    _loaded_in[thread] = process


def check_device(device: str, precision: str = "fp32") -> None:
    """Whether an encoder can compute there in this precision.

    Raises:
        OptionError: there is no such device on this machine, or it does not compute in this precision.
    """
    if device not in DEVICES:
        raise OptionError(f"The device is '{device}'; known are: {', '.join(DEVICES)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            "The device is 'cuda', and torch finds no CUDA device on this machine. Use the device 'cpu', or install a "
            "driver and a torch built for it, see https://pytorch.org/get-started/locally."
        )
    if precision != "bf16":
        return
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise OptionError("The precision is 'bf16', and this CUDA device has no arithmetic for it. Use 'fp32'.")
    if not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction:
        raise OptionError(
            "The precision is 'bf16', and this process adds parts of bfloat16 products up in another way than torch by "
            "itself: vectors would be others. Leave torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction "
            "True."
        )


def computes_bf16(device: str) -> bool:
    """Whether a device has instructions for products in bfloat16; without them, they take longer than in float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell; float32 is right anywhere
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


@contextmanager
def computing(device: str) -> Generator[None]:
    """Around all work on a device.

    Raises:
        OverloadError: a CUDA device has too little memory left; the same work may succeed later.
        OptionError: the process has told torch to round the inputs of float32 products.
    """
    if device == "cpu":
        yield
        return
    check_exact()
    try:
        yield
        torch.cuda.current_stream().synchronize()
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OverloadError(
            f"The CUDA device is out of memory: {str(error).partition('. ')[0]}. Ask again later, end other "
            "programs on it, or take smaller batches."
        ) from error


def check_exact() -> None:
    """Raise OptionError where the process has told torch to round the inputs of float32 products."""
    try:
        found = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses the question after some of its newer settings
        found = "not the highest"
    if found != "highest":
        raise OptionError(
            f"The precision of float32 products is {found} in this process, and vectors would be others. Call "
            "torch.set_float32_matmul_precision('highest'), and leave TORCH_ALLOW_TF32_CUBLAS_OVERRIDE unset."
        )
