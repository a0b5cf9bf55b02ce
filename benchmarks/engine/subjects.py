"""What the encoder's benchmark measures: the dense parent, each budget of the routed encoder, and controls.

Two ways into each: `compute` calls the model on one pack in this thread, as a worker of `engine.runtime.local` does,
and `client` is the encoder as a caller has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.engine.shallow import as_dense
from benchmarks.engine.verdicts import EQUAL
from benchmarks.harness import Figures
from engine.errors import ModelFileError
from engine.model.config import RoutedConfig, ShallowConfig
from engine.model.dense import DenseEncoder, Pack
from engine.model.deterministic import stable_rows, use_least_rows
from engine.model.routed import RoutedEncoder
from engine.model.tokenizer import TextTokenizer
from engine.model.trace import Forward
from engine.protocol import ENCODERS
from engine.runtime.loading import encoder_of, float_parts, load_dense
from engine.runtime.local import LocalEncoder
from engine.weights.in_memory import dense_encoder, load_stored_model
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import SHIPPED, read_minilm, shipped


class EncoderFile:
    """An encoder of our own, routed or shallow, as it lies in its file, with a name for tables.

    Raises:
        ModelFileError: the file cannot be read, is damaged, or has another sha256.
    """

    def __init__(self, name: str, path: Path, sha256: str | None = None) -> None:
        self.name = name
        self._path = path
        with TensorFile(path, sha256) as file:
            self.sha256, self.notes = file.sha256, file.metadata
            self.model, self.tokenizer = load_stored_model(file)

    @property
    def budgets(self) -> tuple[float, ...]:
        """Its budgets; in a shallow encoder everything always works."""
        return self.model.config.budgets if isinstance(self.model, RoutedEncoder) else (1.0,)

    @property
    def main_budget(self) -> float:
        """The default budget, or the largest one where there is no such."""
        return self.model.config.default_active if isinstance(self.model, RoutedEncoder) else self.budgets[-1]

    def fresh(self) -> RoutedEncoder:
        """The routed model once more, to be trained."""
        with TensorFile(self._path, self.sha256) as file:
            model, _ = load_stored_model(file)
        assert isinstance(model, RoutedEncoder), "a routed encoder is trained"
        return model.requires_grad_(True)

    def facts(self) -> Figures:
        """sha256, shape and what the file says about itself, for the JSON."""
        return {
            "sha256": self.sha256,
            "main_budget": self.main_budget,
            "bytes": self._path.stat().st_size,
            **_shape(self.model.config),
            "notes": {key: value for key, value in self.notes.items() if key not in ("config", "format")},
        }


def _shape(config: RoutedConfig | ShallowConfig) -> Figures:
    if isinstance(config, ShallowConfig):
        heads, neurons = (config.heads, 0), (config.ffn_width, 0, 0)
        more: Figures = {"layers": config.layers}
    else:
        heads = config.shared_heads, config.routed_heads
        neurons = config.shared_neurons, config.experts, config.expert_width
        more = {"layers": list(config.kept), "expert_mode": config.expert_mode}
    told = {"heads": dict(zip(("shared", "routed"), heads, strict=True))}
    return {**told, "neurons": dict(zip(("shared", "experts", "of"), neurons, strict=True)), **more}


def read_encoder(name: str) -> EncoderFile:
    """The routed encoder by its name, or one in a file.

    Raises:
        ModelFileError: it cannot be read, or is not routed.
    """
    encoder = EncoderFile("routed", *_place(name))
    if not isinstance(encoder.model, RoutedEncoder):
        raise ModelFileError(f"The encoder {name} is not routed; compare it with one that is: --controls {name}")
    return encoder


def read_controls(names: Sequence[str]) -> list[EncoderFile]:
    """Controls by their paths, named by their files, or shipped ones by name.

    Raises:
        ModelFileError: one cannot be read or two have one name.
    """
    shown = [EQUAL if Path(name).stem == "routed" else Path(name).stem for name in names]
    if len({*shown, "dense"}) < len(shown) + 1:
        raise ModelFileError(f"The controls {shown} need different names, and none of them is dense.")
    return [EncoderFile(show, *_place(name)) for show, name in zip(shown, names, strict=True)]


def _place(name: str) -> tuple[Path, str | None]:
    kind = ENCODERS.get(name, name)
    return shipped(kind) if kind in SHIPPED else (Path(name), None)


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

    def facts(self) -> Figures:
        """Encoder and budget, for the JSON."""
        return {"encoder": "dense" if self.file is None else self.file.name, "active": self.active}

    @cached_property
    def client(self) -> LocalEncoder:
        """The encoder as a caller has it."""
        if self.file is None:
            return load_dense(max_tokens=None, threads=self.threads)
        sha256 = {"encoder": self.file.sha256}
        return encoder_of(self.model, self.file.tokenizer, sha256=sha256, active=self.active, threads=self.threads)

    @cached_property
    def timed_model(self) -> DenseEncoder | RoutedEncoder:
        """The model that is timed: a control with everything on is a dense model, and runs as one."""
        if not isinstance(self.model, RoutedEncoder) or self.active is None or self.file is None:
            return self.model
        config, budget = self.model.config, self.model.config.budget(self.active)
        everything = config.head_shares[budget] == config.expert_shares[budget] == 1
        fixed = self.control and self.file.name != EQUAL
        return as_dense(self.model) if fixed and everything else self.model

    @cached_property
    def timed_client(self) -> LocalEncoder:
        """The client of the model that is timed."""
        model = self.timed_model
        if model is self.model or self.file is None:
            return self.client
        return encoder_of(model, self.file.tokenizer, sha256={"encoder": self.file.sha256}, threads=self.threads)

    @cached_property
    def _parts(self) -> tuple[Forward, str, tuple[tuple[int, int], ...]]:
        return float_parts(self.timed_model)

    @cached_property
    def _rows(self) -> int:
        return stable_rows(self._parts[2])

    def compute(self, batch: Pack) -> torch.Tensor:
        """Vectors of a pack, in this thread, as its timed client computes them."""
        use_least_rows(self._rows)
        budget = 0
        if isinstance(self.timed_model, RoutedEncoder):
            assert self.active is not None
            budget = self.timed_model.config.budget(self.active)
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
        return [Subject(file, active, file.model, threads, control) for active in file.budgets]

    return Subjects(
        Subject(None, None, dense_encoder(files.config, files.tensors), threads, control=False),
        tuple(budgets(encoder, control=False)),
        tuple(subject for control in controls for subject in budgets(control, control=True)),
        TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=max_tokens),
    )


def layer_params(model: DenseEncoder) -> int:
    """Parameters in the layers of a dense encoder."""
    return sum(value.numel() for value in model.layers.parameters())


def embedding_params(model: DenseEncoder) -> int:
    """Parameters of its embeddings and their normalisation."""
    return sum(value.numel() for value in model.parameters()) - layer_params(model)
