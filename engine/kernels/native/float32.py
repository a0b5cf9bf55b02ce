"""The float32 forward with compiled layers, dense or routed; optional, found at run time as the int8 forward is.

Weights stay where torch has them and are read there, so a model whose layers are read for each batch
(`engine.weights.streamed`) goes the same way and gives the same bits. `SIFTLINE_KERNEL` chooses as for int8;
"avx512_vnni" and "amx_int8" mean AVX512 here. Without the library, and on processors without AVX2 and fused
multiply-add, torch computes: slower, and other bits (about 1e-7), which `encoder_id` tells.

Shape letters: T tokens of a pack, S sequences, D width, H routed heads, E experts.
"""

import ctypes
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.errors import OptionError
from engine.kernels.native import MISSING, VARIABLE, load_library, wanted_kernel
from engine.model.config import FIRST
from engine.model.dense import DenseEncoder, Layer, Pack
from engine.model.device import check_exact
from engine.model.routed import RoutedEncoder, RoutedLayer
from engine.model.router import Router
from engine.model.trace import Forward, LayerTrace
from engine.weights.streamed import StreamedFeedForward

_NORM, _ATTENTION, _FEED_FORWARD, _POOL = range(4)
"""Steps of `siftline_float_step`."""


def float_forward(model: DenseEncoder | RoutedEncoder) -> tuple[Forward, str]:
    """The fastest forward on the CPU that this machine has, and its name: an instruction set, or "torch".

    Raises:
        OptionError: SIFTLINE_KERNEL names a kernel that is not known or cannot run here.
    """
    wanted = wanted_kernel()
    library = None if wanted == "torch" else load_library()
    name: bytes | None = None if library is None else library.siftline_float_isa(wanted.encode())
    if library is not None and name is not None:
        return NativeFloat32(model, library, wanted.encode()).forward, name.decode()
    if wanted not in ("auto", "torch"):
        if library is None:
            raise OptionError(f"{VARIABLE} is '{wanted}', but {MISSING}, or use 'torch'.")
        raise OptionError(f"{VARIABLE} is '{wanted}', which this processor does not have. Use 'auto'.")
    return torch_forward(model), "torch"


def torch_forward(model: DenseEncoder | RoutedEncoder) -> Forward:
    """The model's own forward. It raises OptionError where the process has torch round float32 products."""

    def forward(batch: Pack, budget: int, trace: list[LayerTrace] | None) -> torch.Tensor:
        check_exact()
        return model(batch) if isinstance(model, DenseEncoder) else model(batch, budget, trace)

    return forward


@dataclass(frozen=True, slots=True)
class _Batch:
    """What every step of a forward is told about the pack."""

    lengths_S: npt.NDArray[np.int32]
    tokens: int
    budget: int
    x_TD: torch.Tensor
    on_SH: npt.NDArray[np.bool_]
    on_TE: npt.NDArray[np.bool_]
    vectors_SD: npt.NDArray[np.float32]


class NativeFloat32:
    """A float32 encoder with compiled layers. Each call computes in its own thread, without the interpreter's lock.

    Args:
        model: the model; its weights are read in place.
        library: the library.
        kernel: what `SIFTLINE_KERNEL` asks for.
    """

    def __init__(self, model: DenseEncoder | RoutedEncoder, library: ctypes.CDLL, kernel: bytes) -> None:
        self._model, self._library, self._kernel = model, library, kernel
        routed = model.config if isinstance(model, RoutedEncoder) else None
        base = model.config if isinstance(model, DenseEncoder) else model.config.base
        self._base = base
        self._heads = 0 if routed is None else routed.routed_heads
        self._experts = 0 if routed is None else routed.experts
        numbers = (base.width, base.head_width, base.heads, 0, 1, base.ffn_width, 0, 0, 0, 0, 0)
        if routed is not None:
            numbers = (
                base.width,
                base.head_width,
                routed.shared_heads,
                routed.routed_heads,
                0,
                routed.shared_neurons,
                routed.experts,
                routed.expert_width,
                int(routed.expert_mode == "token"),
                routed.quorum,
                len(routed.budgets),
            )
        self._sizes = np.array([*numbers, base.pooling == FIRST], np.int64)
        self._first = _addresses(model.norm.weight, model.norm.bias)
        self._tables: dict[nn.Module, ctypes.Array[ctypes.c_void_p]] = {}

    def forward(self, batch: Pack, budget: int = 0, trace: list[LayerTrace] | None = None) -> torch.Tensor:
        """Unit vectors [S, D] in the order of the pack.

        Args:
            batch: the texts.
            budget: place of the budget in the configuration's list; 0 for a dense model.
            trace: takes one entry per layer of a routed model, without the states.

        Raises:
            MemoryError: there is too little memory for the pack.
        """
        model, tokens = self._model, len(batch.ids_T)
        lengths_S = batch.lengths_S.astype(np.int32)
        assert int(lengths_S.sum()) == tokens, tokens
        now = _Batch(
            lengths_S,
            tokens,
            budget,
            (model.tokens(batch.ids_T) + model.positions(batch.positions_T)).contiguous(),
            np.empty((len(lengths_S), self._heads), np.bool_),
            np.empty((tokens, self._experts), np.bool_),
            np.empty((len(lengths_S), self._base.width), np.float32),
        )
        self._step(_NORM, self._first, now)
        for layer in model.layers:
            table = self._table(layer)
            self._step(_ATTENTION, table, now)
            if trace is not None and self._experts:
                on_SH, on_TE = torch.from_numpy(now.on_SH.copy()), torch.from_numpy(now.on_TE.copy())
                trace.append(LayerTrace(on_SH, on_TE, torch.empty(0, 0)))  # states are changed in place
            part = cast("Layer | RoutedLayer", layer).feed_forward
            if isinstance(part, StreamedFeedForward):
                part.read(np.flatnonzero(now.on_TE.any(axis=0)).tolist())
            self._step(_FEED_FORWARD, table, now)
        self._step(_POOL, None, now)
        return torch.from_numpy(now.vectors_SD)

    def _step(self, step: int, table: "ctypes.Array[ctypes.c_void_p] | None", now: _Batch) -> None:
        assert now.x_TD.dtype == torch.float32, "the library reads and writes it"
        failed = self._library.siftline_float_step(
            self._kernel,
            step,
            self._sizes.ctypes.data,
            table,
            now.lengths_S.ctypes.data,
            len(now.lengths_S),
            now.tokens,
            now.budget,
            self._base.norm_eps,
            now.x_TD.data_ptr(),
            now.on_SH.ctypes.data,
            now.on_TE.ctypes.data,
            now.vectors_SD.ctypes.data,
        )
        if failed:
            raise MemoryError(f"A pack of {now.tokens} tokens does not fit into memory.")

    def _table(self, layer: nn.Module) -> "ctypes.Array[ctypes.c_void_p]":
        """Where a layer's weights are; they do not move."""
        table = self._tables.get(layer)
        if table is None:
            tensors = _routed_tensors(layer) if isinstance(layer, RoutedLayer) else _dense_tensors(cast("Layer", layer))
            table = self._tables[layer] = _addresses(*tensors)
        return table


def _dense_tensors(layer: Layer) -> tuple[torch.Tensor | None, ...]:
    """In the order of `FloatLayer` in float32.h, as those of a routed layer."""
    attention, part = layer.attention, layer.feed_forward
    return (
        *(None,) * 4,
        attention.qkv.weight,
        attention.qkv.bias,
        attention.output.weight,
        *(None,) * 3,
        attention.output.bias,
        layer.attention_norm.weight,
        layer.attention_norm.bias,
        *(None,) * 4,
        part.up.weight,
        part.up.bias,
        part.down.weight,
        *(None,) * 3,
        part.down.bias,
        layer.feed_forward_norm.weight,
        layer.feed_forward_norm.bias,
    )


def _routed_tensors(layer: RoutedLayer) -> tuple[torch.Tensor | None, ...]:
    attention, part = layer.attention, layer.feed_forward
    return (
        *_router_tensors(layer.head_router),
        attention.shared_qkv,
        attention.shared_qkv_bias,
        attention.shared_output,
        attention.qkv,
        attention.qkv_bias,
        attention.output,
        attention.bias,
        layer.attention_norm.weight,
        layer.attention_norm.bias,
        *_router_tensors(layer.expert_router),
        part.shared_up,
        part.shared_up_bias,
        part.shared_down,
        part.up,
        part.up_bias,
        part.down,
        part.bias,
        layer.feed_forward_norm.weight,
        layer.feed_forward_norm.bias,
    )


def _router_tensors(router: Router) -> tuple[torch.Tensor, ...]:
    return router.weight, router.bias, router.balance_U, router.thresholds_B


def _addresses(*tensors: torch.Tensor | None) -> "ctypes.Array[ctypes.c_void_p]":
    for tensor in tensors:
        assert tensor is None or (tensor.dtype == torch.float32 and tensor.is_contiguous()), "the library reads it"
    return (ctypes.c_void_p * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])
