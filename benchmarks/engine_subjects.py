"""What the encoder's benchmark measures: the dense parent, each budget of the routed encoder, and controls.

Two ways into each: `compute` calls the model on one pack in this thread, as a worker of `engine.local` does, and
`client` is the encoder as a caller has it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_bars import EQUAL
from engine.client import DEFAULT_ACTIVE, ENCODERS
from engine.config import RoutedConfig
from engine.encoder import DenseEncoder, Pack, dense_encoder, pack
from engine.errors import ModelFileError
from engine.loading import float_parts, load_dense, routed_client
from engine.local import LocalEncoder
from engine.native.float32 import FloatForward
from engine.products import stable_rows, use_least_rows
from engine.request import Packed
from engine.routed import RoutedEncoder
from engine.routed_file import RoutedFile, parse_routed
from engine.tokenizer import TextTokenizer
from engine.weights import read_minilm, read_proved, shipped_routed


class EncoderFile:
    """A routed encoder, or a control in the same format, as it lies in its file.

    Args:
        name: what to call it in tables.
        content: of the file.
    """

    def __init__(self, name: str, content: bytes) -> None:
        self.name = name
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.file: RoutedFile = parse_routed(content, name=name)

    @property
    def config(self) -> RoutedConfig:
        """Its shape."""
        return self.file.model.config

    @property
    def main_budget(self) -> float:
        """The default budget, or the largest one where there is no such."""
        budgets = self.config.budgets
        return DEFAULT_ACTIVE if DEFAULT_ACTIVE in budgets else budgets[-1]

    def fresh(self) -> RoutedEncoder:
        """The model once more, to be trained."""
        return parse_routed(self.content, name=self.name).model.requires_grad_(True)

    def facts(self) -> dict[str, Any]:
        """sha256, shape and what the file says about itself, for the JSON."""
        config = self.config
        return {
            "sha256": self.sha256,
            "main_budget": self.main_budget,
            "bytes": len(self.content),
            "layers": list(config.kept),
            "heads": {"shared": config.shared_heads, "routed": config.routed_heads},
            "neurons": {"shared": config.shared_neurons, "experts": config.experts, "of": config.expert_width},
            "expert_mode": config.expert_mode,
            "notes": {key: value for key, value in self.file.notes.items() if key not in ("config", "format")},
        }


def read_encoder(name: str) -> EncoderFile:
    """The shipped encoder, or one in a file.

    Args:
        name: a name that stands for the routed encoder, or a path.

    Raises:
        ModelFileError: it cannot be read.
    """
    if ENCODERS.get(name) == "routed":
        path, sha256 = shipped_routed()
        return EncoderFile("routed", read_proved(path, sha256))
    return EncoderFile("routed", _read(Path(name)))


def read_controls(paths: Sequence[Path]) -> list[EncoderFile]:
    """Controls, named by their files. Raises ModelFileError when one cannot be read or two have one name."""
    names = [EQUAL if path.stem == "routed" else path.stem for path in paths]
    if len({*names, "dense"}) < len(names) + 1:
        raise ModelFileError(f"The controls {names} need different names, and none of them is dense.")
    return [EncoderFile(name, _read(path)) for name, path in zip(names, paths, strict=True)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"The encoder {path} cannot be read: {error}.") from error


@dataclass(frozen=True)
class Subject:
    """An encoder at one budget.

    Attributes:
        file: where it comes from; None for the dense parent.
        active: its budget; None for the dense parent.
        model: the model itself.
        threads: worker threads of its client.
        control: it is a control.
    """

    file: EncoderFile | None
    active: float | None
    model: DenseEncoder | RoutedEncoder
    threads: int
    control: bool

    @property
    def name(self) -> str:
        """ "dense", or the encoder's name and its budget."""
        return "dense" if self.file is None else f"{self.file.name} {self.active:g}"

    def facts(self) -> dict[str, Any]:
        """Encoder and budget, for the JSON."""
        return {"encoder": "dense" if self.file is None else self.file.name, "active": self.active}

    @cached_property
    def client(self) -> LocalEncoder:
        """The encoder as a caller has it."""
        if self.file is None:
            return load_dense(max_tokens=None, threads=self.threads)
        assert isinstance(self.model, RoutedEncoder)
        assert self.active is not None
        return routed_client(
            self.model,
            self.tokenizer,
            sha256={"encoder": self.file.sha256},
            active=self.active,
            threads=self.threads,
        )

    @cached_property
    def timed_model(self) -> DenseEncoder | RoutedEncoder:
        """The model that is timed: a control with everything on is a dense model, and runs as one."""
        if not isinstance(self.model, RoutedEncoder) or self.active is None or self.file is None:
            return self.model
        config, budget = self.file.config, self.file.config.budget(self.active)
        everything = config.head_shares[budget] == config.expert_shares[budget] == 1
        fixed = self.control and self.file.name != EQUAL
        return as_dense(self.model) if fixed and everything else self.model

    @cached_property
    def timed_client(self) -> LocalEncoder:
        """The client of the model that is timed."""
        model = self.timed_model
        if model is self.model:
            return self.client
        assert isinstance(model, DenseEncoder)
        forward, _, shapes = self._parts

        def compute(batch: Pack, traced: bool) -> Packed:
            return Packed(forward(batch, 0, None), (), ())

        return LocalEncoder(
            compute,
            shapes,
            TextTokenizer(self.tokenizer, vocab=model.config.vocab, max_tokens=self.client.max_tokens),
            encoder_id=self.client.encoder_id,
            dimension=model.config.width,
            max_tokens=self.client.max_tokens,
            threads=self.threads,
        )

    @property
    def tokenizer(self) -> bytes:
        """Content of its tokenizer.json."""
        assert self.file is not None
        return self.file.file.tokenizer

    @cached_property
    def _parts(self) -> tuple[FloatForward, str, tuple[tuple[int, int], ...]]:
        return float_parts(self.timed_model)

    @cached_property
    def _rows(self) -> int:
        return stable_rows(self._parts[2])

    def compute(self, batch: Pack) -> torch.Tensor:
        """Vectors of a pack, in this thread, as its timed client computes them."""
        use_least_rows(self._rows)
        budget = 0
        if isinstance(self.timed_model, RoutedEncoder):
            assert self.file is not None
            assert self.active is not None
            budget = self.file.config.budget(self.active)
        with torch.inference_mode():
            return self._parts[0](batch, budget, None)


@dataclass(frozen=True)
class Subjects:
    """Everything that is measured.

    Attributes:
        dense: the parent.
        routed: every budget of the routed encoder, ascending.
        controls: every budget of every control.
        tokenizer: the parent's, which all share.
    """

    dense: Subject
    routed: tuple[Subject, ...]
    controls: tuple[Subject, ...]
    tokenizer: TextTokenizer

    def all(self) -> tuple[Subject, ...]:
        """The parent first."""
        return (self.dense, *self.routed, *self.controls)

    def main(self) -> tuple[Subject, ...]:
        """The parent, and every encoder at its main budget."""
        chosen = [s for s in (*self.routed, *self.controls) if s.file is not None and s.active == s.file.main_budget]
        return (self.dense, *chosen)

    @property
    def encoder(self) -> EncoderFile:
        """The routed encoder's file."""
        assert self.routed[0].file is not None
        return self.routed[0].file


def subjects(encoder: EncoderFile, controls: Sequence[EncoderFile], *, threads: int, max_tokens: int = 256) -> Subjects:
    """The parent and all budgets of the encoders. Raises ModelFileError when the parent is not installed."""
    files = read_minilm()

    def budgets(file: EncoderFile, *, control: bool) -> list[Subject]:
        return [Subject(file, active, file.file.model, threads, control) for active in file.config.budgets]

    return Subjects(
        Subject(None, None, dense_encoder(files.config, files.tensors), threads, control=False),
        tuple(budgets(encoder, control=False)),
        tuple(subject for control in controls for subject in budgets(control, control=True)),
        TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=max_tokens),
    )


def as_dense(model: RoutedEncoder) -> DenseEncoder:
    """The dense encoder that computes what a routed one does with everything on."""
    config = replace(model.config.base, layers=len(model.config.kept))
    width, heads = config.width, config.heads
    state = {
        name: model.state_dict()[name] for name in ("tokens.weight", "positions.weight", "norm.weight", "norm.bias")
    }
    for place in range(config.layers):
        layer, ours = model.layer(place), f"layers.{place}."
        attention, feed_forward = layer.attention, layer.feed_forward
        # Routed: query, key and value of one head stand together. Dense: the queries of all heads do, and so on.
        qkv = torch.cat([attention.shared_qkv, attention.qkv.transpose(0, 1).reshape(width, -1)], dim=1)
        bias = torch.cat([attention.shared_qkv_bias, attention.qkv_bias.flatten()])
        state[f"{ours}attention.qkv.weight"] = qkv.view(width, heads, 3, -1).transpose(1, 2).reshape(width, -1)
        state[f"{ours}attention.qkv.bias"] = bias.view(heads, 3, -1).transpose(0, 1).flatten()
        state[f"{ours}attention.output.weight"] = torch.cat([attention.shared_output, attention.output.view(-1, width)])
        state[f"{ours}attention.output.bias"] = attention.bias
        up = feed_forward.up.transpose(0, 1).reshape(width, -1)
        state[f"{ours}feed_forward.up.weight"] = torch.cat([feed_forward.shared_up, up], dim=1)
        state[f"{ours}feed_forward.up.bias"] = torch.cat([feed_forward.shared_up_bias, feed_forward.up_bias.flatten()])
        down = feed_forward.down.view(-1, width)
        state[f"{ours}feed_forward.down.weight"] = torch.cat([feed_forward.shared_down, down])
        state[f"{ours}feed_forward.down.bias"] = feed_forward.bias
        for norm in ("attention_norm", "feed_forward_norm"):
            state |= {f"{ours}{norm}.{key}": value for key, value in getattr(layer, norm).state_dict().items()}
    with torch.device("meta"):
        dense = DenseEncoder(config)
    dense.load_state_dict({name: value.detach().contiguous() for name, value in state.items()}, assign=True)
    dense.eval().requires_grad_(False)
    sample = pack([range(20), range(7)])
    with torch.inference_mode():
        difference = (dense(sample) - model(sample, len(model.config.budgets) - 1)).abs().max()
    assert float(difference) < 1e-5, f"the dense form of a control differs by {float(difference)}"
    return dense


def layer_params(model: DenseEncoder) -> int:
    """Parameters in the layers of a dense encoder."""
    return sum(value.numel() for value in model.layers.parameters())


def embedding_params(model: DenseEncoder) -> int:
    """Parameters of its embeddings and their normalisation."""
    return sum(value.numel() for value in model.parameters()) - layer_params(model)
