"""Models whose weights do not all fit into memory: what is missing is read from the file while a batch is computed.

The rows of the embedding table that a batch needs are read for it. Layers that do not stay take turns in two places:
while one works, the next is read. Of a routed layer, experts are read only once the router has chosen them. The weights
are the same, so the vectors are too, bit for bit. On CUDA the places are in the device's memory.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import cast

import torch
from torch import nn

from engine.errors import OptionError
from engine.model.config import EncoderConfig, RoutedConfig
from engine.model.dense import DenseEncoder, Layer
from engine.model.experts import RoutedFeedForward
from engine.model.routed import RoutedEncoder, RoutedLayer
from engine.weights.in_memory import (
    BEFORE_LAYERS,
    check_dense,
    check_stored,
    finish_positions,
    layer_targets,
    model_of,
    placed,
    without_memory,
)
from engine.weights.routed_file import SCALES, TABLE, TOKENIZER
from engine.weights.safetensors_file import TensorFile


class Reader:
    """Reads weights in a thread of its own while a device computes; to CUDA they are copied on a side stream.

    Args:
        device: where the weights go.
    """

    def __init__(self, device: str) -> None:
        self._thread = ThreadPoolExecutor(1, "weights")
        self._side = torch.cuda.Stream() if device == "cuda" else None

    def start(self, read: Callable[[], None]) -> Callable[[], object]:
        """Begin to read; on CUDA once the device has done what it was asked for, and uses nothing that is replaced.

        Args:
            read: reads weights to their places.

        Returns:
            To be called before the weights are used. Raises what `read` raises.
        """
        side = self._side
        if side is None:
            return self._thread.submit(read).result
        asked = torch.cuda.current_stream().record_event()

        def copy() -> torch.Event:
            asked.synchronize()
            with torch.cuda.stream(side):
                read()
                return side.record_event()

        copied = self._thread.submit(copy)
        return lambda: torch.cuda.current_stream().wait_event(copied.result())


class StreamedTable(nn.Module):
    """An embedding table that stays in its file. Safe to use from several threads.

    Args:
        file: the file.
        name: of the table.
        scales: [V] factor of each row; None when the table is stored as it is used.
    """

    def __init__(self, file: TensorFile, name: str, scales: torch.Tensor | None) -> None:
        super().__init__()
        self._file, self._name, self._scales = file, name, scales
        self.weight = torch.empty(file.places[name].shape, device="meta")

    def forward(self, ids_T: torch.Tensor) -> torch.Tensor:
        """[T, D] the row of each token, on the device of the ids."""
        rows, place_T = torch.unique(ids_T.cpu(), return_inverse=True)
        table = torch.empty(len(rows), self.weight.shape[1], dtype=torch.float32)
        for place, row in enumerate(rows.tolist()):
            self._file.fill(self._name, table[place : place + 1], (row, row + 1))
        if self._scales is not None:
            table *= self._scales[rows].unsqueeze(1)
        return table.to(ids_T.device)[place_T.to(ids_T.device)]


class StreamedLayers(nn.Module):
    """Layers of which the first ones stay in memory and the others take turns in two places. For one batch at a time.

    Args:
        resident: layers that stay, loaded.
        slots: two layers without weights; none when all stay.
        layers: number of layers.
        read: fills a slot with the weights of a layer.
        device: where the layers are.
    """

    def __init__(
        self,
        resident: list[nn.Module],
        slots: list[nn.Module],
        layers: int,
        read: Callable[[nn.Module, int], None],
        device: str,
    ) -> None:
        super().__init__()
        self.resident, self.slots = nn.ModuleList(resident), nn.ModuleList(slots)
        self._layers, self._read = layers, read
        self._reader = Reader(device)

    def __len__(self) -> int:
        return self._layers

    def __iter__(self) -> Iterator[nn.Module]:
        first = len(self.resident)
        following = self._start(first)  # it is read while the layers that stay work
        yield from self.resident
        for number in range(first, self._layers):
            assert following is not None
            following()
            layer, following = self._slot(number), self._start(number + 1)
            yield layer

    def _slot(self, number: int) -> nn.Module:
        return self.slots[(number - len(self.resident)) % 2]

    def _start(self, number: int) -> Callable[[], object] | None:
        return self._reader.start(partial(self._read, self._slot(number), number)) if number < self._layers else None


class StreamedFeedForward(RoutedFeedForward):
    """The feed-forward part of a routed layer whose experts are read when they are chosen.

    Args:
        config: of the model.
        reader: of the experts.

    Attributes:
        read: reads experts to their places, called with their numbers.
    """

    def __init__(self, config: RoutedConfig, reader: Reader) -> None:
        super().__init__(config.base.width, config.shared_neurons, config.experts, config.expert_width)
        self.read: Callable[[list[int]], None] = _read_nothing
        self._reader = reader

    def forward(self, x_TD: torch.Tensor, on_TE: torch.Tensor, gate_TE: torch.Tensor | None = None) -> torch.Tensor:
        """See `RoutedFeedForward`."""
        chosen: list[int] = on_TE.any(dim=0).nonzero().flatten().tolist()
        are_here = self._reader.start(partial(self.read, chosen))
        shared_TD = self.shared(x_TD)
        are_here()
        return self.routed(x_TD, on_TE, gate_TE, shared_TD)


def _read_nothing(experts: list[int]) -> None:
    assert not experts, "a layer has no weights before it is read"


def streamed_dense(
    file: TensorFile,
    config: EncoderConfig,
    budget_bytes: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DenseEncoder | None:
    """The dense model with at most so many bytes of weights in memory; None when all of them fit.

    Args:
        file: the checkpoint, which stays open.
        config: of the model.
        budget_bytes: of the device's memory.
        device: where it computes.
        dtype: as in `engine.weights.in_memory.without_memory`.

    Raises:
        ModelFileError: the file is damaged or from another model.
        OptionError: even two layers at a time are more than the budget.
    """
    check_dense(file, config)
    model = without_memory(lambda: DenseEncoder(config), dtype)

    def place() -> nn.Module:
        return placed(without_memory(lambda: Layer(config), dtype), device)

    def read(layer: nn.Module, number: int) -> None:
        for name, target in layer_targets(layer, number).items():
            file.fill(name, target)

    staying = _staying(model, budget_bytes)
    if staying is None:
        return None
    model.add_module("layers", _layers(len(model.layers), staying, place, place, read, device))
    model.add_module("tokens", StreamedTable(file, BEFORE_LAYERS[TABLE], None))
    for part in (model.positions, model.norm):
        placed(part, device)
    for name, stored in BEFORE_LAYERS.items():
        if name != TABLE:
            file.fill(stored, model.get_parameter(name))
    finish_positions(file, model.positions.weight)
    return model.eval()


def streamed_stored(
    file: TensorFile, budget_bytes: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[RoutedEncoder | DenseEncoder, bytes] | None:
    """The model of a file of our own with at most so many bytes of weights in memory, and its tokenizer; None when all
    of them fit.

    Arguments as in `streamed_dense`.

    Raises:
        ModelFileError: the file is damaged or from another model.
        OptionError: even two layers at a time are more than the budget.
    """
    config = check_stored(file)
    model = without_memory(lambda: model_of(config), dtype)

    def layer() -> nn.Module:
        return RoutedLayer(config) if isinstance(config, RoutedConfig) else Layer(config)

    def streamed_layer() -> nn.Module:
        made = layer()
        if isinstance(config, RoutedConfig):
            made.add_module("feed_forward", StreamedFeedForward(config, experts))
        return made

    def place() -> nn.Module:
        return placed(without_memory(layer, dtype), device)

    def slot() -> nn.Module:
        return placed(without_memory(streamed_layer, dtype), device)

    def read_experts(part: StreamedFeedForward, number: int, chosen: list[int]) -> None:
        for expert in chosen:
            for name, target in (("up", part.up), ("down", part.down)):
                rows = (expert, expert + 1)
                file.fill(f"layers.{number}.feed_forward.{name}", target[slice(*rows)], rows)

    def read(layer: nn.Module, number: int) -> None:
        part = cast("Layer | RoutedLayer", layer).feed_forward
        by_choice = isinstance(part, StreamedFeedForward)
        for name, target in layer.state_dict().items():
            if not (by_choice and name in ("feed_forward.up", "feed_forward.down")):
                file.fill(f"layers.{number}.{name}", target)
        if isinstance(part, StreamedFeedForward):
            part.read = partial(read_experts, part, number)

    staying = _staying(model, budget_bytes)
    if staying is None:
        return None
    experts = Reader(device)
    model.add_module("layers", _layers(len(model.layers), staying, place, slot, read, device))
    scales = torch.empty(file.places[SCALES].shape, dtype=torch.float32)
    file.fill(SCALES, scales)
    model.add_module("tokens", StreamedTable(file, TABLE, scales))
    for prefix, part in (("positions", model.positions), ("norm", model.norm)):
        for name, target in placed(part, device).named_parameters(prefix):
            file.fill(name, target)
    return model.eval(), file.content(TOKENIZER)


def _staying(model: DenseEncoder | RoutedEncoder, budget_bytes: int) -> int | None:
    """How many layers stay beside what is needed at any rate; None when the whole model fits."""
    whole, table = _bytes(model), _bytes(model.tokens)
    count, layer = len(model.layers), _bytes(model.layers[0])
    if whole <= budget_bytes:
        return None
    left = budget_bytes - (whole - table - count * layer)
    staying = count if left >= count * layer else left // layer - 2
    if staying < 0:
        least = whole - table - count * layer + 2 * layer
        raise OptionError(
            f"The memory budget is {budget_bytes / 2**20:.1f} MiB; the least is {least / 2**20:.1f} MiB, for two "
            f"layers of {layer / 2**20:.1f} MiB at a time. The whole model has {whole / 2**20:.1f} MiB."
        )
    return staying


def _layers(
    count: int,
    staying: int,
    place: Callable[[], nn.Module],
    slot: Callable[[], nn.Module],
    read: Callable[[nn.Module, int], None],
    device: str,
) -> StreamedLayers:
    """Args: count of layers; staying how many are read now, to stay; place makes one for these, slot for the others."""
    resident = [place() for _ in range(staying)]
    for number, one in enumerate(resident):
        read(one, number)
    slots = [slot() for _ in range(2)] if staying < count else []
    return StreamedLayers(resident, slots, count, read, device)


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in module.state_dict().values())
