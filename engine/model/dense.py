"""The dense encoder in plain torch: token ids of several texts in, one unit vector per text out.

Texts are packed: their tokens stand one after another in one matrix, without padding. Everything but attention and
pooling works on single rows (`engine.model.deterministic`), in blocks that stay in the cache. Attention and pooling run
over texts of equal length. On one thread, a text therefore gives the same bits in any pack.

Shape letters: T tokens of a pack, S sequences, D width, F feed-forward width, H heads, W head width,
L length of one sequence.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from engine.model.config import FIRST, MEAN, EncoderConfig
from engine.model.deterministic import fold, linear, lowered, most_rows, must_fix_order, product, root


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring sequences of equal length in a pack: first row, number of sequences, tokens of each."""

    start: int
    sequences: int
    length: int


@dataclass(frozen=True, slots=True)
class Pack:
    """Several texts as one list of tokens.

    Attributes:
        ids_T: token ids.
        positions_T: position of each token in its own text.
        sequences_T: the text of each token.
        runs: the texts by length, in order; together they cover all rows.
    """

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    sequences_T: torch.Tensor
    runs: tuple[Run, ...]

    @property
    def lengths_S(self) -> npt.NDArray[np.int64]:
        """Tokens of each text."""
        return np.repeat([run.length for run in self.runs], [run.sequences for run in self.runs])

    def to(self, device: str) -> "Pack":
        """The same with its tensors on a device."""
        return Pack(self.ids_T.to(device), self.positions_T.to(device), self.sequences_T.to(device), self.runs)


def pack(sequences: Sequence[Sequence[int]]) -> Pack:
    """Put token ids of texts one after another. Neighbours of equal length share one attention call.

    Args:
        sequences: S lists of token ids, none empty.
    """
    assert all(sequences), "a sequence has at least [CLS] and [SEP]"
    lengths = np.array([len(ids) for ids in sequences])
    ids_T = np.fromiter((token for ids in sequences for token in ids), np.int64, int(lengths.sum()))
    starts = np.cumsum(lengths) - lengths
    positions_T = np.arange(len(ids_T)) - np.repeat(starts, lengths)
    sequences_T = np.repeat(np.arange(len(lengths)), lengths)
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
    runs = tuple(Run(int(starts[a]), b - a, int(lengths[a])) for a, b in itertools.pairwise(edges) if a < b)
    return Pack(torch.from_numpy(ids_T), torch.from_numpy(positions_T), torch.from_numpy(sequences_T), runs)


class Linear(nn.Module):
    """y = x A + b; A is kept as [in, out], which products of few rows read faster."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.empty(columns))

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """All rows."""
        return linear(lowered(x_TD, self.weight), self.weight, self.bias)


def attend(q_SHLW: torch.Tensor, k_SHLW: torch.Tensor, v_SHLW: torch.Tensor) -> torch.Tensor:
    """[S, H, L, W]: softmax(q k / sqrt W) v.

    On CUDA torch would pick a kernel by the number of texts, and some sum in an order that depends on it. The one named
    here computes each text and head for itself, in float32 and bfloat16.
    """
    if must_fix_order(q_SHLW):
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        return kernel(q_SHLW, k_SHLW, v_SHLW, None, compute_log_sumexp=False)[0]
    return functional.scaled_dot_product_attention(q_SHLW, k_SHLW, v_SHLW)


class Attention(nn.Module):
    """Multi-head self-attention, each text by itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.qkv = Linear(config.width, 3 * config.width)
        self.output = Linear(config.width, config.width)

    def forward(self, x_TD: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """Args: x_TD states; runs the texts in it. Returns: [T, D]."""
        qkv_T = self.qkv(x_TD)
        context_TD = torch.empty_like(x_TD, dtype=qkv_T.dtype)
        for run in runs:
            rows = slice(run.start, run.start + run.sequences * run.length)
            shape = (run.sequences, run.length, self.heads, self.head_width)
            q_SHLW, k_SHLW, v_SHLW = (part.reshape(shape).transpose(1, 2) for part in qkv_T[rows].chunk(3, dim=1))
            mixed_SHLW = attend(q_SHLW, k_SHLW, v_SHLW)
            context_TD[rows].view(shape).copy_(mixed_SHLW.transpose(1, 2))
        return self.output(context_TD)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them, block by block, so the wide middle stays in the cache."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.ffn_width)
        self.down = Linear(config.ffn_width, config.width)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Args: x_TD states. Returns: [T, D]."""
        if torch.is_autocast_enabled(x_TD.device.type):  # there speed counts and bits do not
            return self.down(functional.gelu(self.up(x_TD)))
        y_TD = torch.empty_like(x_TD, dtype=self.down.weight.dtype)
        for x_BD, y_BD in zip(x_TD.split(most_rows()), y_TD.split(most_rows()), strict=True):
            product(functional.gelu(self.up(x_BD)), self.down.weight, self.down.bias, y_BD)
        return y_TD


class Layer(nn.Module):
    """One transformer layer: attention and feed-forward, each added to its input and normalised after."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x_TD: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """Args: x_TD states; runs the texts in it. Returns: [T, D]."""
        x_TD = self.attention_norm((x_TD + self.attention(x_TD, runs)).float())
        return self.feed_forward_norm((x_TD + self.feed_forward(x_TD)).float())


def table(rows: int, width: int, *, sparse: bool = False) -> nn.Embedding:
    """An embedding table without initial values, which are read from a file.

    Random ones would touch all of its memory, use the global generator, and on the meta device import sympy: 70 MiB.
    """
    return nn.Embedding.from_pretrained(torch.empty(rows, width), freeze=False, sparse=sparse)


class DenseEncoder(nn.Module):
    """BERT encoder; a text's vector is the mean of its tokens' states, or the first one's, at unit length.

    Source: Devlin et al. 2019, BERT; Reimers and Gurevych 2019, Sentence-BERT (pooling).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = table(config.vocab, config.width)
        self.positions = table(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def states(self, batch: Pack) -> torch.Tensor:
        """[T, D]: the last layer's state of each token."""
        x_TD = self.norm(self.tokens(batch.ids_T) + self.positions(batch.positions_T))
        for layer in self.layers:
            x_TD = layer(x_TD, batch.runs)
        return x_TD

    def forward(self, batch: Pack) -> torch.Tensor:
        """Unit vectors [S, D] float32 in the order of the pack."""
        return pooled(self.states(batch), batch.runs, self.config.pooling)

    def shapes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of every weight matrix."""
        width, inner = self.config.width, self.config.ffn_width
        return ((width, 3 * width), (width, width), (width, inner), (inner, width))


def run_rows(x_TD: torch.Tensor, run: Run) -> torch.Tensor:
    """The rows of a run; x itself where these are all, because the backward of a slice fills and copies a whole x."""
    rows = run.sequences * run.length
    return x_TD if rows == len(x_TD) else x_TD[run.start : run.start + rows]


def sequence_means(x_TD: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
    """[S, D] float32: mean state of each text."""
    means: list[torch.Tensor] = []
    for run in runs:
        x_SLD = run_rows(x_TD, run).view(run.sequences, run.length, -1).float()
        if must_fix_order(x_TD):
            means.append(fold(x_SLD.transpose(1, 2)) / run.length)
        else:
            means.append(x_SLD.mean(dim=1))
    return torch.cat(means) if len(means) > 1 else means[0]


def sequence_firsts(x_TD: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
    """[S, D] float32: state of each text's first token."""
    return torch.cat([run_rows(x_TD, run).view(run.sequences, run.length, -1)[:, 0] for run in runs]).float()


def pooled(x_TD: torch.Tensor, runs: Sequence[Run], pooling: str = MEAN) -> torch.Tensor:
    """[S, D] float32: mean state of each text, or its first token's, at unit length."""
    pooled_SD = sequence_firsts(x_TD, runs) if pooling == FIRST else sequence_means(x_TD, runs)
    if must_fix_order(x_TD):
        return pooled_SD / root(fold(pooled_SD * pooled_SD)).unsqueeze(1)
    return pooled_SD / pooled_SD.norm(dim=1, keepdim=True)
