"""A CUDA device for machines without one: tensors that say they are on it, hold their values on the CPU, and refuse
what CUDA would refuse or would compute in an order of its own.

It shows that the code of the device path puts every tensor where it belongs, and that a text's sums have one order in
any batch as far as the shapes of operations decide. Copies on a side stream are as late as they may be, and refused
where the device may still use what they overwrite. It says nothing about the kernels of a real device; the tests that
are marked cuda do.
"""

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from engine.model.deterministic import use_least_rows
from engine.model.device import CUDA_ROWS

CUDA = torch.device("cuda")
_CROSSING = ("copy_", "to", "cpu")
_IN_ANY_ORDER = ("sum", "mean", "norm", "softmax", "matmul", "bmm", "baddbmm", "einsum", "var", "std", "cumsum")
_PRODUCTS = ("mm", "addmm")


class CudaError(Exception):
    """What CUDA would refuse, or what would make bits depend on the batch."""


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended device. Attributes: on_host, its values."""

    on_host: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor) -> "PretendedTensor":
        shell = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), dtype=values.dtype, device=CUDA
        )
        shell.on_host = values
        return shell

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return _call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} went past __torch_function__")


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, args, kwargs or {})


class _Stream:
    """The stream that computes does all at once; on a side stream, copies are made when somebody waits for them."""

    def __init__(self) -> None:
        self.copies: list[Callable[[], object]] = []
        self.made = 0

    def record_event(self) -> "_Event":
        return _Event(self, len(self.copies), _uses.now)

    def wait_event(self, event: "_Event") -> None:
        event.make_copies()

    def synchronize(self) -> None:
        self.record_event().synchronize()


class _Event:
    def __init__(self, stream: _Stream, copies: int, used: int) -> None:
        self._stream, self._copies, self._used = stream, copies, used

    def make_copies(self) -> None:
        stream = self._stream
        while stream.made < self._copies:
            stream.copies[stream.made]()
            stream.made += 1

    def synchronize(self) -> None:
        self.make_copies()
        if self._stream is _computing:
            _local.waited = self._used


class _Uses:
    """Number of operations on the stream that computes, and the last one that used each memory."""

    def __init__(self) -> None:
        self.now, self.last = 0, dict[int, int]()

    def note(self, tensors: Iterable[PretendedTensor]) -> None:
        self.now += 1
        self.last.update((_memory(tensor), self.now) for tensor in tensors)


_computing, _uses, _local = _Stream(), _Uses(), threading.local()


def _memory(tensor: PretendedTensor) -> int:
    return tensor.on_host.untyped_storage().data_ptr()


@contextmanager
def _on(stream: _Stream) -> Generator[None]:
    _local.side = stream
    try:
        yield
    finally:
        _local.side = None


@contextmanager
def pretended_cuda() -> Generator[None]:
    """Inside the block "cuda" is the pretended device for this thread and for the threads of encoders made in it.
    Products of this thread have CUDA's rows, as those of the workers."""
    mode = _Mode()

    def threads(count: int, name: str, initializer: Callable[[], None] = lambda: None) -> ThreadPoolExecutor:
        def begin() -> None:
            mode.__enter__()
            initializer()

        return ThreadPoolExecutor(count, name, initializer=begin)

    use_least_rows(CUDA_ROWS, CUDA_ROWS)
    try:
        with (
            patch("torch.cuda.is_available", lambda: True),
            patch("torch.cuda.is_bf16_supported", lambda including_emulation: True),
            patch("torch.cuda.current_stream", lambda: _computing),
            patch("torch.cuda.Stream", _Stream),
            patch("torch.cuda.stream", _on),
            patch("torch.cuda.empty_cache", lambda: None),
            patch("engine.runtime.local.ThreadPoolExecutor", threads),
            patch("engine.weights.streamed.ThreadPoolExecutor", threads),
            mode,
        ):
            yield
    finally:
        use_least_rows(1)


def _call(func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", str(func))
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    if name == "__get__" and there and getattr(func, "__self__", None) in (torch.Tensor.device, torch.Tensor.is_cuda):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)
    if func is torch.device or getattr(func, "__objclass__", None) is torch.device:
        return func(*args, **kwargs)
    if name == "pin_memory":
        assert not there, "only memory of the host is pinned"
        return args[0].clone()
    goes = _goes_to_cuda(args, kwargs)
    if not there and not goes:
        return func(*args, **kwargs)
    if name not in _CROSSING and any(tensor.dim() for tensor in tensors if not isinstance(tensor, PretendedTensor)):
        raise CudaError(f"{name} takes tensors of the CPU and of CUDA")
    if name in ("numpy", "__array__"):
        raise CudaError("a tensor on CUDA has no NumPy array")
    _check_order(name, func, args, kwargs, there)
    side: _Stream | None = getattr(_local, "side", None)
    if side is None:
        _uses.note(there)
    elif name == "copy_":
        if _uses.last.get(_memory(args[0]), 0) > getattr(_local, "waited", 0):
            raise CudaError("a copy on a side stream overwrites what may be in use")
        (target, source), kwargs = tree_map(_values, (args, kwargs))
        side.copies.append(lambda: func(target, source, **kwargs))
        return args[0]
    args, kwargs = tree_map(_values, (args, kwargs))
    if "efficient_attention" in str(func):
        q, k, v = args[:3]
        assert q.dtype in (torch.float32, torch.bfloat16)
        assert all(part.stride(-1) == 1 and part.shape[-1] % 4 == 0 for part in (q, k, v))
        result: Any = (functional.scaled_dot_product_attention(q, k, v), None, None, None)
    else:
        result = func(*args, **kwargs)
    to_host = name == "cpu" or (name == "to" and not goes and _goes_to_host(args, kwargs))
    return result if to_host else tree_map(_pretended, result)


def _check_order(name: str, func: Any, args: Any, kwargs: Any, there: list[PretendedTensor]) -> None:
    first = there[0].on_host if there else None
    if name in _PRODUCTS:
        rows = next(tensor.on_host.shape[0] for tensor in there if tensor.on_host.dim() == 2)
        if rows != CUDA_ROWS:
            raise CudaError(f"a product of {rows} rows")
    if name in ("linear", "scaled_dot_product_attention") or "__matmul__" in name:
        raise CudaError(f"{name} picks its kernel by the number of rows or texts")
    if name in _IN_ANY_ORDER and first is not None and first.is_floating_point():
        raise CudaError(f"{name} adds in an order that depends on the batch")
    if name in ("index_add", "index_add_"):
        target, _, index, added = (value.on_host if isinstance(value, PretendedTensor) else value for value in args)
        real = index[index != len(target) - 1]  # the last row takes what only fills up
        if len(real.unique()) != len(real) and not torch.equal(added, added.round()):
            raise CudaError("index_add adds in any order")


def _goes_to_cuda(args: Any, kwargs: dict[str, Any]) -> bool:
    return any(_device(value) == "cuda" for value in (*args, kwargs.get("device")))


def _goes_to_host(args: Any, kwargs: dict[str, Any]) -> bool:
    return any(_device(value) == "cpu" for value in (*args, kwargs.get("device")))


def _device(value: Any) -> str | None:
    if isinstance(value, torch.device):
        return value.type
    return value if isinstance(value, str) and value in ("cpu", "cuda") else None


def _values(value: Any) -> Any:
    if isinstance(value, PretendedTensor):
        return value.on_host
    return torch.device("cpu") if _device(value) == "cuda" else value


def _pretended(value: Any) -> Any:
    return PretendedTensor(value) if isinstance(value, torch.Tensor) else value
