"""The dense encoder in plain torch: token ids of several texts in, one unit vector per text out.

Texts are packed: their tokens stand one after another in one matrix, without padding. Everything but attention and
pooling works on single rows (`engine.products`), in blocks of `BLOCK_ROWS` that stay in the cache. Attention runs over
texts of equal length, pooling over one text. On one thread, a text therefore gives the same bits in any pack.

Shape letters: T tokens of a pack, S sequences, D width, F feed-forward width, H heads, W head width,
L length of one sequence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from engine.config import EncoderConfig
from engine.products import linear, product

BLOCK_ROWS = 64
"""Rows of one GEMM. 16 to 128 measured: 64 costs a single short text little and reaches 95% of the best rate."""


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
        runs: the texts by length, in order; together they cover all rows.
    """

    ids_T: torch.Tensor
    positions_T: torch.Tensor
    runs: tuple[Run, ...]


def pack(sequences: Sequence[Sequence[int]]) -> Pack:
    """Put token ids of texts one after another. Neighbours of equal length share one attention call.

    Args:
        sequences: S lists of token ids, none empty.
    """
    tokens = sum(len(ids) for ids in sequences)
    ids_T = torch.tensor([token for ids in sequences for token in ids], dtype=torch.long)
    positions_T = torch.empty(tokens, dtype=torch.long)
    runs: list[Run] = []
    row = 0
    for ids in sequences:
        assert ids, "a sequence has at least [CLS] and [SEP]"
        if runs and runs[-1].length == len(ids):
            runs[-1] = Run(runs[-1].start, runs[-1].sequences + 1, len(ids))
        else:
            runs.append(Run(row, 1, len(ids)))
        positions_T[row : row + len(ids)] = torch.arange(len(ids))
        row += len(ids)
    return Pack(ids_T, positions_T, tuple(runs))


class BlockLinear(nn.Module):
    """y = x A + b over blocks of `BLOCK_ROWS` rows; A is kept as [in, out], which GEMMs of few rows read faster."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))
        self.bias = nn.Parameter(torch.empty(columns))

    def block(self, x_BD: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """One block of rows."""
        if out is None:
            return linear(x_BD, self.weight, self.bias)
        product(x_BD, self.weight, self.bias, out)
        return out

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """All rows, block by block."""
        y_TF = x_TD.new_empty(x_TD.shape[0], self.weight.shape[1])
        for x_BD, y_BF in zip(x_TD.split(BLOCK_ROWS), y_TF.split(BLOCK_ROWS), strict=True):
            self.block(x_BD, out=y_BF)
        return y_TF


class Attention(nn.Module):
    """Multi-head self-attention, each text by itself."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.qkv = BlockLinear(config.width, 3 * config.width)
        self.output = BlockLinear(config.width, config.width)

    def forward(self, x_TD: torch.Tensor, runs: Sequence[Run]) -> torch.Tensor:
        """Args: x_TD states; runs the texts in it. Returns: [T, D]."""
        qkv_T = self.qkv(x_TD)
        context_TD = torch.empty_like(x_TD)
        for run in runs:
            rows = slice(run.start, run.start + run.sequences * run.length)
            shape = (run.sequences, run.length, self.heads, self.head_width)
            q_SHLW, k_SHLW, v_SHLW = (part.reshape(shape).transpose(1, 2) for part in qkv_T[rows].chunk(3, dim=1))
            mixed_SHLW = functional.scaled_dot_product_attention(q_SHLW, k_SHLW, v_SHLW)
            context_TD[rows].view(shape).copy_(mixed_SHLW.transpose(1, 2))
        return self.output(context_TD)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them, block by block, so the wide middle stays in the cache."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.up = BlockLinear(config.width, config.ffn_width)
        self.down = BlockLinear(config.ffn_width, config.width)

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Args: x_TD states. Returns: [T, D]."""
        y_TD = torch.empty_like(x_TD)
        for x_BD, y_BD in zip(x_TD.split(BLOCK_ROWS), y_TD.split(BLOCK_ROWS), strict=True):
            self.down.block(functional.gelu(self.up.block(x_BD)), out=y_BD)
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
        x_TD = self.attention_norm(x_TD + self.attention(x_TD, runs))
        return self.feed_forward_norm(x_TD + self.feed_forward(x_TD))


class DenseEncoder(nn.Module):
    """BERT encoder with mean pooling.

    Source: Devlin et al. 2019, BERT; Reimers and Gurevych 2019, Sentence-BERT (mean of the token states, unit length).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab, config.width)
        self.positions = nn.Embedding(config.positions, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))

    def forward(self, batch: Pack) -> torch.Tensor:
        """Unit vectors [S, D] float32 in the order of the pack."""
        x_TD = self.norm(self.tokens(batch.ids_T) + self.positions(batch.positions_T))
        for layer in self.layers:
            x_TD = layer(x_TD, batch.runs)
        vectors: list[torch.Tensor] = []
        for run in batch.runs:
            for start in range(run.start, run.start + run.sequences * run.length, run.length):
                mean_D = x_TD[start : start + run.length].float().mean(dim=0)
                vectors.append(mean_D / mean_D.norm())
        return torch.stack(vectors)


def dense_encoder(config: EncoderConfig, tensors: Mapping[str, torch.Tensor]) -> DenseEncoder:
    """A `DenseEncoder` for inference with the tensors of a BERT checkpoint (`weights.encoder_tensors`)."""
    state: dict[str, torch.Tensor] = {
        "tokens.weight": tensors["embeddings.word_embeddings.weight"],
        # All tokens of a single text are of type 0, so its embedding is a part of each position.
        "positions.weight": tensors["embeddings.position_embeddings.weight"]
        + tensors["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": tensors["embeddings.LayerNorm.weight"],
        "norm.bias": tensors["embeddings.LayerNorm.bias"],
    }
    for number in range(config.layers):
        theirs, ours = f"encoder.layer.{number}.", f"layers.{number}."
        qkv = [f"{theirs}attention.self.{name}" for name in ("query", "key", "value")]
        state[f"{ours}attention.qkv.weight"] = torch.cat([tensors[f"{name}.weight"] for name in qkv]).t()
        state[f"{ours}attention.qkv.bias"] = torch.cat([tensors[f"{name}.bias"] for name in qkv])
        for linear, name in (
            ("attention.output", "attention.output.dense"),
            ("feed_forward.up", "intermediate.dense"),
            ("feed_forward.down", "output.dense"),
        ):
            state[f"{ours}{linear}.weight"] = tensors[f"{theirs}{name}.weight"].t()
            state[f"{ours}{linear}.bias"] = tensors[f"{theirs}{name}.bias"]
        for norm, name in (
            ("attention_norm", "attention.output.LayerNorm"),
            ("feed_forward_norm", "output.LayerNorm"),
        ):
            state[f"{ours}{norm}.weight"] = tensors[f"{theirs}{name}.weight"]
            state[f"{ours}{norm}.bias"] = tensors[f"{theirs}{name}.bias"]
    with torch.device("meta"):  # no random initial weights: they would cost time and use the global generator
        model = DenseEncoder(config)
    model.load_state_dict({name: value.contiguous() for name, value in state.items()}, assign=True)
    return model.eval().requires_grad_(False)
