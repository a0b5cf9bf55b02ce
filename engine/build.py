"""The two long jobs of the engine as functions: convert a dense model, and distill a routed one until it is good.

`siftline engine` calls these; they can be called from Python just as well.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from engine.config import RoutedConfig
from engine.convert import CALIBRATION_TOKENS, RESERVE, calibrate_thresholds, convert, plan
from engine.corpus import Corpus, read_corpus, with_joined
from engine.device import check_device
from engine.distill import Distillation
from engine.encoder import dense_encoder, pack
from engine.errors import OptionError
from engine.recipe import Progress, Recipe
from engine.routed import RoutedEncoder
from engine.routed_file import check_output, parse_routed, write_routed
from engine.tokenizer import TextTokenizer
from engine.weights import DenseFiles, read_folder, read_minilm
from engine.work_folder import only_run

TRAINING_TOKENS = 256
"""Longest training text in tokens."""
JOINED_FRAC = 0.15
JOINED_LONGEST = 256
CALIBRATION_FACTOR = 4
"""Thresholds are set on this many times the tokens that routers are fitted on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """What to keep of a dense model, as `convert.plan` takes it.

    Attributes:
        layers: layers to keep, from 0; all when None.
        shared_heads: heads of a layer that always work.
        shared_neurons: neurons of a layer that always work.
        experts: experts per layer.
        heads: heads of a layer that work on average at the main budget; None leaves it to `convert.plan`.
        expert_mode: "token" or "sequence".
        quorum: tokens of a text that must want an expert.
        main_budget: share of the parent's layer parameters at which heads and experts are split.
    """

    layers: tuple[int, ...] | None = None
    shared_heads: int = 6
    shared_neurons: int = 192
    experts: int = 14
    heads: float | None = None
    expert_mode: str = "token"
    quorum: int = 2
    main_budget: float = 0.3

    def plan(self, files: DenseFiles) -> RoutedConfig:
        """The configuration for a dense model. Raises what `convert.plan` raises."""
        layers = tuple(range(files.config.layers)) if self.layers is None else self.layers
        parts = asdict(self)
        del parts["layers"]
        return plan(files.config, kept=layers, **parts)


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
        shape: convert the parent to this first; the default shape when None.
        start: go on from this routed file instead of converting.
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
        model, origin, trained = _beginning(files, corpus, shape or Shape(), start, recipe)
        corpus = with_joined(corpus, JOINED_FRAC, longest=min(JOINED_LONGEST, files.config.positions), seed=recipe.seed)
        parent = dense_encoder(files.config, files.tensors).to(device)
        run = Distillation(model.to(device), parent, corpus, recipe, folder, start=origin)
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
    origin = trained = ""
    if start is not None:
        content = _read(start)
        origin = hashlib.sha256(content).hexdigest()
        file = parse_routed(content, name=start.name)
        model = file.model.requires_grad_(True)
        before = file.notes.get("trained", "no")
        trained = "" if before == "no" else f"{before}, then "
        if model.config.base != files.config:
            raise OptionError(f"{start} was made from another parent than the one given.")
    else:
        sample = sample_texts(corpus, recipe.seed, CALIBRATION_TOKENS)
        model = convert(shape.plan(files), files.tensors, sample, torch.Generator().manual_seed(recipe.seed))
    if len(recipe.budgets) != len(model.config.budgets):
        raise OptionError(
            f"The recipe has frequencies for {len(recipe.budgets)} budgets, the encoder has "
            f"{len(model.config.budgets)}."
        )
    return model, origin, trained


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OptionError(f"The encoder {path} cannot be read: {error}.") from error


def read_texts(files: DenseFiles, texts: Sequence[Path], *, limit: int | None) -> Corpus:
    """Texts of files as token ids of the dense model's tokenizer. Raises what `read_corpus` raises."""
    longest = min(TRAINING_TOKENS, files.config.positions)
    return read_corpus(texts, TextTokenizer(files.tokenizer, vocab=files.config.vocab, max_tokens=longest), limit=limit)


def sample_texts(corpus: Corpus, seed: int, tokens: int) -> list[list[int]]:
    """Token ids of texts picked at random until they have so many tokens."""
    chosen: list[list[int]] = []
    for number in np.random.default_rng([seed, 1]).permutation(len(corpus)):
        if tokens <= 0:
            break
        chosen.append(corpus.text(int(number)).tolist())
        tokens -= len(chosen[-1])
    return chosen
