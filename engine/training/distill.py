"""Distillation: teach a routed encoder to give the dense parent's vectors, with no labels.

Each step takes texts of a few lengths, gives them to both encoders, and pulls the routed one toward the parent: by the
cosine of the vectors, by the similarities between the texts of the batch and, in the first part of the run, by the
states of single tokens, which tell much more per text. The parent's vectors are kept, so that later epochs need no
parent. Routers learn twice: through straight-through gates from the loss, and from the measured contributions of
experts on a few tokens.

Everything random is a function of seed and step, so a run that was stopped goes on bit for bit from its checkpoint.

Shape letters: B texts of a batch, T tokens of a batch, D width, E experts.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from engine.errors import ModelFileError, OptionError
from engine.model.dense import DenseEncoder, Pack, pack, pooled
from engine.model.device import computes_bf16
from engine.model.routed import RoutedEncoder
from engine.model.router import CONTROL_RATE
from engine.model.trace import LayerTrace
from engine.training.convert import normalised
from engine.training.corpus import MIN_BATCH, Corpus, Ints, batches
from engine.training.schedule import Progress, Recipe
from engine.weights.safetensors_file import file_metadata

# Batches come in some sixty lengths, each with its own compiled products; the default, 1,024, does not hold them all.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

FIRST_REPORT = 10
"""Steps after which a run says for the first time how it goes and how long it will take."""
HELD_OUT = 1000
"""Texts that are never trained on and measure progress."""
REGRESSION_ROWS = 128
CHECKPOINT = "checkpoint.safetensors"
SUM = "sha256 of the tensors"
UNIT_TOLERANCE = 0.01


class Distillation:
    """One run: model, parent, text and optimisers; `run` does the steps that are left.

    Args:
        model: the encoder to train.
        parent: its dense parent.
        corpus: the texts.
        recipe: how to train.
        folder: where checkpoints and the parent's vectors are kept; an interrupted run in it goes on.
        main_budget: the place of the budget whose quality is told.
        start: what the model was before training, for telling runs apart: a hash of its file, or "" when it was
            converted from the parent. Not a hash of its weights: conversion gives other last bits with another number
            of threads, and a run must go on all the same.
        written: the first so many texts are such as people write, and held-out ones are taken from them; all when None.

    Raises:
        OptionError: the folder belongs to another run.
    """

    def __init__(
        self,
        model: RoutedEncoder,
        parent: DenseEncoder,
        corpus: Corpus,
        recipe: Recipe,
        folder: Path,
        *,
        main_budget: int = 1,
        start: str = "",
        written: int | None = None,
    ) -> None:
        self._device = model.tokens.weight.device
        if recipe.bf16 is None:
            recipe = replace(recipe, bf16=_begun_with_bf16(folder, default=computes_bf16(self._device.type)))
        self.model, self.parent, self.corpus, self.recipe, self.folder = model, parent, corpus, recipe, folder
        self.main_budget = main_budget
        self.step = self.texts = 0
        numbers = np.random.default_rng(recipe.seed).permutation(len(corpus))
        held = numbers[numbers < (len(corpus) if written is None else written)][: min(HELD_OUT, len(corpus) // 10)]
        self._held, self._members = np.sort(held), numbers[~np.isin(numbers, held)]
        if not len(held) or not batches(corpus, self._members, tokens=recipe.tokens, seed=recipe.seed, epoch=0):
            raise OptionError(
                f"{len(corpus)} texts are too few: a batch needs {MIN_BATCH}, beside a tenth that is "
                "held out. Give more text."
            )
        dense = [value for name, value in model.named_parameters() if name != "tokens.weight"]
        self._dense = dense
        self._adam = torch.optim.AdamW(
            [
                {"params": [value for value in dense if value.dim() > 1], "weight_decay": 0.01},
                {"params": [value for value in dense if value.dim() < 2], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )
        self._sparse_adam = torch.optim.SparseAdam([model.tokens.weight])
        folder.mkdir(parents=True, exist_ok=True)
        self._texts_hash = hashlib.sha256(corpus.ids.tobytes() + corpus.offsets.tobytes()).hexdigest()
        self._parent_hash = _digest(parent.state_dict())
        self._key = json.dumps(
            {
                "recipe": asdict(recipe),
                "texts": self._texts_hash,
                "parent": self._parent_hash,
                "start": start,
                "model": model.config.to_json(),
            },
            sort_keys=True,
        )
        if (folder / CHECKPOINT).exists():
            self._restore()

    def run(self, *, report: Callable[[Progress], None], every: int = 200, checkpoint_s: float = 300.0) -> None:
        """Do the steps that are left.

        Args:
            report: told after the first `FIRST_REPORT` steps, every `every` steps and at the end.
            every: steps between two reports.
            checkpoint_s: seconds between two checkpoints.
        """
        targets_ND = self.targets()
        # Heads' routers learn from heads that are off too; without them they lose more than the time that it saves.
        self.model.compute_masked(heads=True, experts=False)
        saved = begun = time.monotonic()
        tokens, losses, first = 0, [], self.step
        with self.model.controlled(CONTROL_RATE):
            for texts in self._batches():
                losses.append(self.train_step(texts, targets_ND))
                tokens += int(self.corpus.lengths[texts].sum())
                self.texts += len(texts)
                self.step += 1
                if self.step % every == 0 or self.step in (first + FIRST_REPORT, self.recipe.steps):
                    passed = time.monotonic() - begun
                    report(
                        self._progress(
                            targets_ND, tokens / passed, float(np.mean(losses[-every:])), passed, self.step - first
                        )
                    )
                if time.monotonic() - saved > checkpoint_s or self.step == self.recipe.steps:
                    targets_ND.flush()
                    self.save()
                    saved = time.monotonic()
        self.model.compute_masked(heads=False, experts=False)
        self.model.eval()

    def _batches(self) -> Iterator[Ints]:
        recipe, epoch, passed = self.recipe, 0, 0
        while True:
            plan = batches(self.corpus, self._members, tokens=recipe.tokens, seed=recipe.seed, epoch=epoch)
            for texts in plan:
                if self.step >= recipe.steps:
                    return
                if passed >= self.step:
                    yield texts
                passed += 1
            epoch += 1

    def train_step(self, texts: Ints, targets_ND: np.memmap) -> float:
        """One optimiser step; returns its loss.

        Args:
            texts: numbers of the texts, from the shortest to the longest.
            targets_ND: the parent's vectors, as `targets` gives them.
        """
        recipe, model = self.recipe, self.model
        model.train()
        generator = np.random.default_rng([recipe.seed, self.step])
        budget = int(generator.choice(len(recipe.budgets), p=recipe.budgets))
        for optimiser in (self._adam, self._sparse_adam):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate_at(self.step)
            optimiser.zero_grad(set_to_none=True)
        batch = self._pack(texts)
        by_state = self.step < recipe.state_steps
        target_BD, target_TD = self._target(texts, batch, targets_ND, states=by_state)
        trace: list[LayerTrace] = []
        with self._lowered():
            x_TD = model.states(batch, budget, trace)
            routing = torch.stack([self._router_loss(place, layer) for place, layer in enumerate(trace)]).mean()
        loss = distillation_loss(pooled(x_TD, batch.runs), target_BD, recipe.pair_weight)
        total = loss + recipe.router_weight * routing
        if target_TD is not None:
            total = total + recipe.state_weight * functional.mse_loss(x_TD, target_TD) / target_TD.square().mean()
        total.backward()
        nn.utils.clip_grad_norm_(self._dense, 1.0)
        self._adam.step()
        self._sparse_adam.step()
        return float(loss.detach())

    def _pack(self, texts: Ints) -> Pack:
        return pack([self.corpus.text(int(number)).tolist() for number in texts]).to(str(self._device))

    def _lowered(self) -> torch.autocast:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=bool(self.recipe.bf16))

    def _router_loss(self, place: int, trace: LayerTrace) -> torch.Tensor:
        layer = self.model.layer(place)
        if self.model.config.expert_mode == "sequence":
            return trace.x_TD.new_zeros(())
        x_TD = trace.x_TD.detach()[:: max(1, len(trace.x_TD) // REGRESSION_ROWS)]
        with torch.no_grad():
            target_TE = normalised(layer.feed_forward.contributions(x_TD).float())
        return functional.mse_loss(layer.expert_router.scores(x_TD), target_TE)

    def targets(self) -> np.memmap:
        """[N, D] float16 vectors of the parent, filled in as they are needed; a row counts when it has unit length."""
        # Vectors of another parent, of other texts or in another precision would pass for those of this run.
        made_of = "\n".join((self._texts_hash, self._parent_hash, "bf16" if self.recipe.bf16 else "fp32"))
        path = self.folder / f"parent-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npy"
        shape = (len(self.corpus), self.parent.config.width)
        try:
            if not path.exists():
                np.lib.format.open_memmap(path, "w+", np.float16, shape)
                with path.open("rb+") as file:  # a page that finds no room on the disk later would end the process
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise OptionError(
                f"The parent's vectors cannot be kept in {path}: {error}. Give another folder."
            ) from error
        try:
            found = np.lib.format.open_memmap(path, "r+")
        except (OSError, ValueError) as error:
            raise OptionError(f"{path} cannot be read: {error}. Delete it, and it is computed again.") from error
        if found.shape != shape:
            raise OptionError(
                f"{path} holds vectors of {found.shape}, expected {shape}. Delete it, and it is computed again."
            )
        return found

    def _target(
        self, texts: Ints, batch: Pack, targets_ND: np.memmap, *, states: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The parent's vectors [B, D] and, if asked, states [T, D] of a batch."""
        known_BD = np.asarray(targets_ND[texts], np.float32)
        known_B = np.abs(np.einsum("bd,bd->b", known_BD, known_BD) - 1) < UNIT_TOLERANCE
        if known_B.all() and not states:
            return torch.from_numpy(known_BD).to(self._device), None
        with torch.no_grad(), self._lowered():
            x_TD = self.parent.states(batch)
        # A vector that is kept is never replaced: a run that goes on must see the bits that it saw before.
        unknown_B = ~known_B
        targets_ND[texts[unknown_B]] = pooled(x_TD, batch.runs).half().cpu().numpy()[unknown_B]
        target_BD = torch.from_numpy(np.asarray(targets_ND[texts], np.float32)).to(self._device)
        return target_BD, x_TD.float() if states else None

    @torch.no_grad()
    def _progress(self, targets_ND: np.memmap, speed: float, loss: float, seconds: float, done: int) -> Progress:
        self.model.eval()
        cosines: list[float] = []
        for length in np.unique(self.corpus.lengths[self._held]):
            texts = self._held[self.corpus.lengths[self._held] == length]
            batch = self._pack(texts)
            target_BD, _ = self._target(texts, batch, targets_ND, states=False)
            with self.model.controlled(None), self._lowered():
                vectors_BD = self.model(batch, self.main_budget)
            cosines += (vectors_BD * target_BD).sum(dim=1).tolist()
        return Progress(
            step=self.step,
            steps=self.recipe.steps,
            texts=self.texts,
            tokens_per_s=speed,
            loss=loss,
            cosine=float(np.mean(cosines)),
            seconds=seconds,
            done=done,
        )

    def save(self) -> None:
        """Write a checkpoint; the one before stays until the new one is whole."""
        tensors = {f"model.{name}": value.cpu() for name, value in self.model.state_dict().items()}
        for kind, optimiser in (("adam", self._adam), ("sparse", self._sparse_adam)):
            for place, state in optimiser.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"{kind}.{place}.{name}"] = torch.as_tensor(value).cpu()
        partial = self.folder / (CHECKPOINT + ".part")
        about = {"step": str(self.step), "texts": str(self.texts), "key": self._key, SUM: _digest(tensors)}
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata=about)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(self.folder / CHECKPOINT)
        except (OSError, SafetensorError) as error:
            raise OptionError(
                f"The checkpoint cannot be written to {self.folder}: {error}. The one before is whole; make room, and "
                "run again with the same folder."
            ) from error

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT
        metadata = checkpoint_metadata(path)
        if metadata.get("key") != self._key:
            raise OptionError(
                f"{path} is of another run ({_differences(metadata.get('key', ''), self._key)}). Give what was given "
                "then, or another folder."
            )
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ModelFileError(f"The checkpoint {path} cannot be read: {error}. Delete it to start over.") from error
        if metadata.get(SUM, found := _digest(tensors)) != found:  # those of earlier versions have none
            raise ModelFileError(
                f"The checkpoint {path} is damaged: its weights are not those written. Delete it to start over."
            )
        self.step, self.texts = int(metadata["step"]), int(metadata["texts"])
        self.model.load_state_dict({n[6:]: v for n, v in tensors.items() if n.startswith("model.")})
        for kind, optimiser in (("adam", self._adam), ("sparse", self._sparse_adam)):
            state: dict[int, dict[str, object]] = {}
            for name, value in tensors.items():
                if name.startswith(f"{kind}."):
                    _, place, part = name.split(".", 2)
                    state.setdefault(int(place), {})[part] = (
                        int(value) if kind == "sparse" and part == "step" else value
                    )
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def checkpoint_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint says about itself.

    Raises:
        ModelFileError: the file cannot be read.
    """
    try:
        return file_metadata(path)
    except OSError as error:
        raise ModelFileError(f"The checkpoint {path} cannot be read: {error}. Delete it to start over.") from error


def _begun_with_bf16(folder: Path, *, default: bool) -> bool:
    """Whether the run in a folder has products in bfloat16, whatever machine it was begun on."""
    if not (folder / CHECKPOINT).exists():
        return default
    try:
        return bool(json.loads(checkpoint_metadata(folder / CHECKPOINT)["key"])["recipe"]["bf16"])
    except (KeyError, ValueError, TypeError):
        return default  # of another run, which is refused when the checkpoint is read


def _differences(before: str, now: str) -> str:
    """In what a checkpoint's run and another one differ, in words."""
    words = {"texts": "other texts", "parent": "another parent", "start": "another start", "model": "another shape"}
    here = json.loads(now)
    try:
        there = json.loads(before)
        recipe = dict(there["recipe"])
    except (KeyError, ValueError, TypeError):
        return "it says nothing that can be read about it"
    parts = [said for name, said in words.items() if there.get(name) != here[name]]
    parts += [
        f"{name} {recipe.get(name)} there and {value} here"
        for name, value in here["recipe"].items()
        if recipe.get(name) != value
    ]
    return ", ".join(parts) or "of another version"


def distillation_loss(vectors_BD: torch.Tensor, target_BD: torch.Tensor, pair_weight: float) -> torch.Tensor:
    """Mean cosine distance to the parent's vectors, and mean squared error of the similarities in the batch."""
    distance = 1 - (vectors_BD * target_BD).sum(dim=1).mean()
    pairs = functional.mse_loss(vectors_BD @ vectors_BD.t(), target_BD @ target_BD.t())
    return distance + pair_weight * pairs


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
