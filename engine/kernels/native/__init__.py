"""The int8 forward as compiled C++, with the bits of `engine.kernels.int8.TorchInt8`; optional, found at run time. The
same library has the layers of `engine.kernels.native.float32`.

It is built where there is a C++ compiler (`make setup`, `pip install .`; in a git worktree `make native`). Without it,
or where its version is another one, `int8_forward` gives the torch forward: slower, same vectors.

SIFTLINE_KERNEL chooses: "auto" (default), "torch", or an instruction set: "scalar", "avx2", "avx512_vnni", "amx_int8".
"""

import ctypes
import os
import weakref
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.errors import OptionError
from engine.kernels.int8 import TorchInt8
from engine.model.config import FIRST
from engine.model.dense import Pack
from engine.model.trace import Forward, LayerTrace
from engine.weights.quantize import Int8Weights

VERSION = 5
"""Of the interface to the library; one of another version is left alone. Raise it where sources that were built before
must not be used any more: nothing else tells that a library is older than its sources."""
VARIABLE = "SIFTLINE_KERNEL"
STAGES = (
    "embed and mean",
    "routers",
    "queries, keys, values",
    "attention",
    "output",
    "feed-forward",
    "residuals and norms",
)
"""Parts of a forward whose time `NativeInt8.forward` can tell."""
MISSING = "the compiled forward is missing: install Siftline again where there is a C++ compiler, such as g++"
KERNELS = ("auto", "torch", "scalar", "avx2", "avx512_vnni", "amx_int8")


def int8_forward(weights: Int8Weights) -> tuple[Forward, str]:
    """The fastest forward that this machine has, and its name: an instruction set, or "torch".

    Raises:
        OptionError: SIFTLINE_KERNEL names a kernel that is not known or cannot run here.
    """
    wanted = wanted_kernel()
    library = None if wanted == "torch" else load_library()
    if library is None:
        if wanted not in ("auto", "torch"):
            raise OptionError(f"{VARIABLE} is '{wanted}', but {MISSING}, or use 'torch'.")
        return TorchInt8(weights).forward, "torch"
    name = library.siftline_isa(wanted.encode())
    if name is None:
        raise OptionError(f"{VARIABLE} is '{wanted}', which this processor does not have. Use 'auto'.")
    return NativeInt8(weights, library, name).forward, name.decode()


def wanted_kernel() -> str:
    """What `SIFTLINE_KERNEL` asks for, one of `KERNELS`. Raises: OptionError."""
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in KERNELS:
        raise OptionError(f"{VARIABLE} is '{wanted}'; known are: {', '.join(KERNELS)}.")
    return wanted


@cache
def load_library() -> ctypes.CDLL | None:
    """The compiled library; None where there is none for this system and this version of the interface."""
    for path in sorted(Path(__file__).parent.glob("_forward*.so")):
        try:
            library = ctypes.CDLL(str(path))
            found = library.siftline_version()
        except (OSError, AttributeError):  # built for another system
            continue
        if found == VERSION:
            library.siftline_isa.restype = ctypes.c_char_p
            library.siftline_new.restype = ctypes.c_void_p
            library.siftline_new.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_void_p]
            library.siftline_layer.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p]
            library.siftline_free.argtypes = [ctypes.c_void_p]
            library.siftline_free.restype = None
            library.siftline_forward.argtypes = [
                *[ctypes.c_void_p] * 3,
                *[ctypes.c_int32] * 3,
                *[ctypes.c_void_p] * 4,
            ]
            library.siftline_float_isa.restype = ctypes.c_char_p
            library.siftline_float_step.argtypes = [
                ctypes.c_char_p,
                ctypes.c_int,
                *[ctypes.c_void_p] * 3,
                *[ctypes.c_int32] * 3,
                ctypes.c_float,
                *[ctypes.c_void_p] * 4,
            ]
            return library
    return None


class NativeInt8:
    """An int8 encoder in the compiled library. Each call computes in its own thread, without the interpreter's lock.

    Args:
        weights: the model; its matrices are copied, packed for the instruction set.
        library: the library.
        isa: name of the instruction set.

    Raises:
        MemoryError: there is too little memory.
    """

    def __init__(self, weights: Int8Weights, library: ctypes.CDLL, isa: bytes) -> None:
        sizes = weights.sizes
        self._sizes, self._library = sizes, library
        base = sizes.base
        numbers = np.array(
            [
                base.width,
                base.heads,
                base.head_width,
                sizes.layers,
                sizes.shared_heads,
                sizes.shared_neurons,
                sizes.experts,
                sizes.expert_width,
                sizes.by_token,
                sizes.quorum,
                sizes.budgets,
                base.vocab,
                base.positions,
                base.pooling == FIRST,
            ],
            np.int64,
        )
        self._kept: list[torch.Tensor] = []  # what the library reads in place
        parts = weights.parts()
        self._model: ctypes.c_void_p | None = None
        for place in range(-1, sizes.layers):  # one part is packed and let go before the next is made
            self._pack(place, next(parts), numbers, isa)

    def _pack(self, place: int, part: dict[str, torch.Tensor], numbers: npt.NDArray[np.int64], isa: bytes) -> None:
        """Hand over a layer, or at -1 what comes before the layers."""
        layout = {name: form for name, form in self._sizes.layout().items() if name in part}
        assert len(layout) == len(part), part.keys() - layout.keys()
        for name, form in layout.items():
            assert (part[name].dtype, tuple(part[name].shape)) == form, name
            assert part[name].is_contiguous(), name
            if name == "tokens.values" or form[0].is_floating_point:
                self._kept.append(part[name])
        pointers = (ctypes.c_void_p * len(layout))(*[part[name].data_ptr() for name in layout])
        if self._model is None:
            base = self._sizes.base
            self._model = ctypes.c_void_p(self._library.siftline_new(isa, numbers.ctypes.data, base.norm_eps, pointers))
            packed = bool(self._model)
            if packed:
                weakref.finalize(self, self._library.siftline_free, self._model)
        else:
            packed = not self._library.siftline_layer(self._model, place, pointers)
        if not packed:
            raise MemoryError("The int8 model does not fit into memory.")

    def forward(
        self,
        batch: Pack,
        budget: int,
        trace: list[LayerTrace] | None = None,
        spent: npt.NDArray[np.int64] | None = None,
    ) -> torch.Tensor:
        """See `engine.kernels.int8.TorchInt8.forward`.

        Args:
            batch, budget, trace: as there.
            spent: nanoseconds of each of `STAGES`, added to.

        Raises:
            MemoryError: there is too little memory for the pack.
        """
        sizes = self._sizes
        ids_T = np.ascontiguousarray(batch.ids_T.numpy(), np.int64)
        lengths_S = batch.lengths_S.astype(np.int32)
        assert 0 <= budget < max(1, sizes.budgets), budget
        assert 0 <= int(ids_T.min()) <= int(ids_T.max()) < sizes.base.vocab, "the tokenizer was checked against it"
        assert int(lengths_S.max()) <= sizes.base.positions, int(lengths_S.max())
        assert int(lengths_S.sum()) == len(ids_T), len(ids_T)
        texts, tokens = len(lengths_S), len(ids_T)
        vectors_SD = np.empty((texts, sizes.base.width), np.float32)
        heads_LSH = experts_LTE = None
        if trace is not None and sizes.experts:
            heads_LSH = np.empty((sizes.layers, texts, sizes.routed_heads), np.bool_)
            experts_LTE = np.empty((sizes.layers, tokens, sizes.experts), np.bool_)
        failed = self._library.siftline_forward(
            self._model,
            ids_T.ctypes.data,
            lengths_S.ctypes.data,
            texts,
            tokens,
            budget,
            vectors_SD.ctypes.data,
            _address(heads_LSH),
            _address(experts_LTE),
            None if spent is None else spent.ctypes.data,
        )
        if failed:
            raise MemoryError(f"A pack of {tokens} tokens does not fit into memory.")
        if trace is not None and heads_LSH is not None and experts_LTE is not None:
            nothing = torch.empty(0, 0)  # states stay in the library
            for on_SH, on_TE in zip(heads_LSH, experts_LTE, strict=True):
                trace.append(LayerTrace(torch.from_numpy(on_SH), torch.from_numpy(on_TE), nothing))
        return torch.from_numpy(vectors_SD)


def _address(array: npt.NDArray[np.bool_] | None) -> int | None:
    return None if array is None else array.ctypes.data
