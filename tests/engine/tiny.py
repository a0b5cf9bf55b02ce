"""Small models with random weights, for tests that need no trained one: parents, routed ones, texts, a tokenizer."""

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from engine.model.config import EncoderConfig, RoutedConfig, ShallowConfig
from engine.model.dense import DenseEncoder
from engine.model.routed import RoutedEncoder
from engine.model.trace import LayerTrace
from engine.training.convert import convert
from engine.training.corpus import Corpus
from engine.weights.in_memory import dense_encoder
from engine.weights.shipped import encoder_tensors
from tests.engine.texts import SENTENCE

BASE = EncoderConfig(vocab=100, width=32, layers=3, heads=4, ffn_width=64, positions=80, norm_eps=1e-12)


def tiny_routed_config(base: EncoderConfig = BASE, **changes: Any) -> RoutedConfig:
    """Two of four heads and 16 of 64 neurons shared, and 4 experts of 12."""
    parts: dict[str, Any] = {
        "kept": tuple(range(base.layers)),
        "shared_heads": 2,
        "shared_neurons": 16,
        "experts": 4,
        "expert_mode": "token",
        "quorum": 1,
        "budgets": (0.2, 0.3, 0.5, 1.0),
        "head_shares": (0.25, 0.5, 0.75, 1.0),
        "expert_shares": (0.2, 0.4, 0.7, 1.0),
        **changes,
    }
    parts.setdefault("expert_width", (base.ffn_width - parts["shared_neurons"]) // parts["experts"])
    return RoutedConfig(base=base, **parts)


def tiny_tensors(base: EncoderConfig = BASE, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under BERT's names, large enough that every head and neuron matters."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in encoder_tensors(base).items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("LayerNorm.weight"):
            values = 1 + 0.1 * values
        elif name.endswith("bias"):
            values = 0.2 * values
        elif not name.startswith("embeddings."):
            values = 1.5 * values / shape[1] ** 0.5
        tensors[name] = values
    return tensors


def tiny_texts(count: int, *, seed: int, longest: int = 24, base: EncoderConfig = BASE) -> list[list[int]]:
    """Token ids of texts of 2 to `longest` tokens."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(2, longest + 1, count)
    return [generator.integers(0, base.vocab, length).tolist() for length in lengths]


def tiny_corpus(count: int, *, seed: int, lengths: Sequence[int] = (6, 9, 12), base: EncoderConfig = BASE) -> Corpus:
    """Texts of few lengths, so that batches of one length are full."""
    generator = np.random.default_rng(seed)
    sizes = generator.choice(np.array(lengths), count)
    ids = generator.integers(0, base.vocab, int(sizes.sum())).astype(np.int32)
    return Corpus(ids, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def tiny_parent(base: EncoderConfig = BASE, seed: int = 0) -> DenseEncoder:
    return dense_encoder(base, tiny_tensors(base, seed))


def tiny_shallow(layers: int = 2, seed: int = 0) -> DenseEncoder:
    """A student whose parent had three layers more."""
    sizes: dict[str, Any] = {**asdict(BASE), "layers": layers, "parent_layers": layers + 3}
    config = ShallowConfig(**sizes)
    return dense_encoder(config, tiny_tensors(config, seed))


def tiny_routed(config: RoutedConfig | None = None, seed: int = 0) -> RoutedEncoder:
    """A converted tiny parent, its thresholds set on 80 texts."""
    return deepcopy(_converted(config or tiny_routed_config(), seed))


@cache
def _converted(config: RoutedConfig, seed: int) -> RoutedEncoder:
    texts = tiny_texts(80, seed=100, base=config.base)
    return convert(config, tiny_tensors(config.base, seed), texts, torch.Generator().manual_seed(seed))


def shares(layers: Sequence[LayerTrace]) -> tuple[list[float], list[float]]:
    """By layer, the share of routed heads and of experts that worked."""
    return [float(x.on_SH.float().mean()) for x in layers], [float(x.on_TE.float().mean()) for x in layers]


def tiny_tokenizer(base: EncoderConfig = BASE) -> bytes:
    """A tokenizer.json that knows the words of `tests.engine.texts`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *dict.fromkeys(SENTENCE.lower().split())]
    words += [f"word{number}" for number in range(base.vocab - len(words))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer.to_str().encode()


def write_folder(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, base: EncoderConfig = BASE, **config: Any
) -> Path:
    """A Hugging Face folder with a tiny model."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": base.vocab,
        "hidden_size": base.width,
        "num_hidden_layers": base.layers,
        "num_attention_heads": base.heads,
        "intermediate_size": base.ffn_width,
        "max_position_embeddings": base.positions,
        "layer_norm_eps": base.norm_eps,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    (folder / "tokenizer.json").write_bytes(tiny_tokenizer(base))
    save_file(tensors or tiny_tensors(base), folder / "model.safetensors")
    return folder


def config_values(config: RoutedConfig) -> dict[str, Any]:
    """The configuration as it stands in a file, to change it."""
    return json.loads(json.dumps(asdict(config)))
