"""The two long jobs of the engine as functions: convert a dense model, and distill a routed one until it is good.

`siftline engine` calls these; they can be called from Python just as well.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from engine.errors import OptionError
from engine.model.config import EncoderConfig, RoutedConfig, ShallowConfig
from engine.model.dense import DenseEncoder, pack
from engine.model.device import check_device
from engine.model.families import TYPES
from engine.model.routed import RoutedEncoder
from engine.model.tokenizer import TextTokenizer
from engine.training.augment import LONGEST, with_noise, word_pieces
from engine.training.convert import CALIBRATION_TOKENS, RESERVE, calibrate_thresholds, convert, plan
from engine.training.corpus import Corpus, read_corpus, with_joined
from engine.training.distill import Distillation
from engine.training.schedule import Progress, Recipe
from engine.training.work_folder import only_run
from engine.weights.hugging_face import read_folder
from engine.weights.in_memory import dense_encoder, dense_targets, load_stored_model
from engine.weights.routed_file import check_output, write_routed
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import DenseFiles, read_minilm

TRAINING_TOKENS = 256
"""Longest training text in tokens."""
JOINED_FRAC = 0.15
JOINED_LONGEST = 256
NOISE_FRAC = 0.4
CALIBRATION_FACTOR = 4
"""Thresholds are set on this many times the tokens that routers are fitted on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What to keep of a dense model, as `convert.plan` takes it.

    Attributes:
        layers: layers to keep, from 0; "all"; or "third": as many, evenly spread, with the first and the last, as the
            shipped encoder has.
        shared_heads: heads of a layer that always work; None leaves it to `convert.plan`.
        shared_neurons: neurons of a layer that always work; likewise.
        experts: experts per layer.
        heads: heads of a layer that work on average at the main budget; likewise.
        expert_mode: "token" or "sequence".
        quorum: tokens of a text that must want an expert.
        main_budget: share of the parent's layer parameters at which heads and experts are split.
    """

    layers: tuple[int, ...] | Literal["all", "third"] = "all"
    shared_heads: int | None = None
    shared_neurons: int | None = None
    experts: int = 14
    heads: float | None = None
    expert_mode: str = "token"
    quorum: int = 2
    main_budget: float = 0.3

    def plan(self, files: DenseFiles) -> RoutedConfig:
        """The configuration for a dense model. Raises what `convert.plan` raises."""
        parts = asdict(self)
        del parts["layers"]
        return plan(files.config, kept=self._kept(files.config.layers), **parts)

    def _kept(self, layers: int) -> tuple[int, ...]:
        if not isinstance(self.layers, str):
            return self.layers
        count = layers if self.layers == "all" else max(min(2, layers), round(layers / 3))
        return tuple(np.linspace(0, layers - 1, count).round().astype(int).tolist())


def dense_files(source: Path | None) -> DenseFiles:
    """The dense model in a folder; the parent all-MiniLM-L6-v2 when None. Raises what its reader raises."""
    return read_minilm() if source is None else read_folder(source)


def convert_file(source: Path | None, texts: Sequence[Path], output: Path, shape: Shape, *, seed: int) -> RoutedConfig:
    """Convert a dense model and write the routed one, untrained.

    Args:
        source: Hugging Face folder; None for all-MiniLM-L6-v2.
        texts: files with texts like those that will be encoded, one per line.
        output: .safetensors file to write.
        shape: what to keep.
        seed: for the expert clusters.

    Raises:
        OptionError: a file cannot be read or written, or the shape is impossible.
        ModelFileError: the model cannot be used.
    """
    check_output(output)
    files = dense_files(source)
    config = shape.plan(files)
    corpus = read_texts(files, texts, limit=20_000)
    model = convert(
        config, files.tensors, sample_texts(corpus, seed, CALIBRATION_TOKENS), torch.Generator().manual_seed(seed)
    )
    write_routed(output, model, files.tokenizer, {"trained": "no", "seed": str(seed)})
    return config


def distill_file(
    source: Path | None,
    texts: Sequence[Path],
    output: Path,
    folder: Path,
    *,
    recipe: Recipe,
    shape: Shape | None = None,
    start: Path | None = None,
    limit: int | None = None,
    device: str = "cpu",
    report: Callable[[Progress], None],
    every: int = 100,
) -> RoutedEncoder:
    """Train a routed encoder toward its dense parent's vectors and write it; a run that was stopped goes on.

    Args:
        source: folder of the dense parent; None for all-MiniLM-L6-v2.
        texts: files of training text, one per line.
        output: .safetensors file to write at the end.
        folder: for checkpoints; the same folder goes on where it stopped.
        recipe: how to train.
        shape: convert the parent to this first; a third of its layers when None.
        start: go on from this routed file, or convert this shallow one, instead of the parent.
        limit: texts to read at most.
        device: "cpu" or "cuda".
        report: told how it goes.
        every: steps between two reports.

    Raises:
        OptionError: an option is out of range, the output cannot be written, or the folder belongs to another run or
            has one at work.
        ModelFileError: a model cannot be used.
    """
    check_device(device)
    check_output(output)
    with only_run(folder):
        files = dense_files(source)
        corpus = read_texts(files, texts, limit=limit)
        model, origin, trained = _beginning(files, corpus, shape or Shape(layers="third"), start, recipe)
        corpus = joined_corpus(files, corpus, seed=recipe.seed)
        noisy = noisy_corpus(files, corpus, seed=recipe.seed)
        parent = dense_encoder(files.config, files.tensors).to(device)
        run = Distillation(model.to(device), parent, noisy, recipe, folder, start=origin, written=len(corpus))
        run.run(report=report, every=every)
        model = model.cpu().requires_grad_(False)
        held = sample_texts(corpus, recipe.seed + 1, CALIBRATION_FACTOR * CALIBRATION_TOKENS)
        calibrate_thresholds(model, pack(sorted(held, key=len)), reserve=RESERVE)
        trained += f"{run.step} steps, {run.texts} texts"
        notes = {"trained": trained, "seed": str(recipe.seed)}
        write_routed(output, model, files.tokenizer, notes)
    return model


def _beginning(
    files: DenseFiles, corpus: Corpus, shape: Shape, start: Path | None, recipe: Recipe
) -> tuple[RoutedEncoder, str, str]:
    """The model before training, the sha256 of its file and how that was trained; "" where it was converted."""
    generator = torch.Generator().manual_seed(recipe.seed)
    sample = sample_texts(corpus, recipe.seed, CALIBRATION_TOKENS)
    origin = trained = ""
    if start is None:
        model = convert(shape.plan(files), files.tensors, sample, generator)
    else:
        with TensorFile(start) as file:
            model, _ = load_stored_model(file)
            origin, before = file.sha256, file.metadata.get("trained", "no")
        trained = "" if before == "no" else f"{before}, then "
        if _parent_of(model) != files.config:
            raise OptionError(f"{start} was made from another parent than the one given.")
        if isinstance(model, DenseEncoder):
            config = shape.plan(files)
            model = convert(config, _in_parents_layers(model, config, start), sample, generator)
        model.requires_grad_(True)
    if len(recipe.budgets) != len(model.config.budgets):
        raise OptionError(
            f"The recipe has frequencies for {len(recipe.budgets)} budgets, the encoder has "
            f"{len(model.config.budgets)}."
        )
    return model, origin, trained


def _parent_of(model: RoutedEncoder | DenseEncoder) -> EncoderConfig:
    if isinstance(model, RoutedEncoder):
        return model.config.base
    assert isinstance(model.config, ShallowConfig), "files of our own hold nothing else"
    sizes: dict[str, Any] = asdict(model.config) | {"layers": model.config.parent_layers}
    del sizes["parent_layers"]
    return EncoderConfig(**sizes)


def _in_parents_layers(model: DenseEncoder, config: RoutedConfig, start: Path) -> dict[str, torch.Tensor]:
    """A shallow encoder's tensors as a checkpoint of its parent would have them, whose other layers are missing."""
    if len(model.layers) != len(config.kept):
        raise OptionError(
            f"{start} has {len(model.layers)} layers. Say with --layers which of the parent's they are, such as 0,5."
        )
    tensors = dense_targets(model, layers=config.kept)
    return tensors | {TYPES: torch.zeros(2, config.base.width)}  # they are part of its positions


def read_texts(files: DenseFiles, texts: Sequence[Path], *, limit: int | None) -> Corpus:
    """Texts of files as token ids of the dense model's tokenizer. Raises what `read_corpus` raises."""
    longest = min(TRAINING_TOKENS, files.config.positions)
    return read_corpus(texts, TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=longest), limit=limit)


def joined_corpus(files: DenseFiles, corpus: Corpus, *, seed: int) -> Corpus:
    """The texts, and behind them longer ones joined from some; see `with_joined`."""
    return with_joined(corpus, JOINED_FRAC, longest=min(JOINED_LONGEST, files.config.positions), seed=seed)


def noisy_corpus(files: DenseFiles, corpus: Corpus, *, seed: int) -> Corpus:
    """The texts, and behind them such as nobody wrote; see `with_noise`."""
    longest = min(LONGEST, files.config.positions)
    return with_noise(corpus, NOISE_FRAC, word_pieces(files.tokenizer), longest=longest, seed=seed)


def sample_texts(corpus: Corpus, seed: int, tokens: int) -> list[list[int]]:
    """Token ids of texts picked at random until they have so many tokens."""
    chosen: list[list[int]] = []
    for number in np.random.default_rng([seed, 1]).permutation(len(corpus)):
        if tokens <= 0:
            break
        chosen.append(corpus.text(int(number)).tolist())
        tokens -= len(chosen[-1])
    return chosen
