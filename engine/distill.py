"""Distillation: teach a routed encoder to give the dense parent's vectors, with no labels.

Each step takes texts of one length, gives them to both encoders at one budget, and pulls the routed one's vectors
toward the parent's: by cosine, and by the similarities between the texts of the batch. Routers learn twice: through
straight-through gates from the loss, and from the measured contributions of experts on a few tokens.

Everything random is a function of seed and step, so a run that was stopped goes on bit for bit from its checkpoint.

Shape letters: B texts of a batch, L tokens of each, D width, E experts.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from engine.convert import normalised
from engine.corpus import Batch, Corpus, Ints, batches, gather
from engine.encoder import DenseEncoder, Pack, Run
from engine.errors import ModelFileError, OptionError
from engine.routed import LayerTrace, RoutedEncoder
from engine.router import CONTROL_RATE

HELD_OUT = 1000
"""Texts that are never trained on and measure progress."""
REGRESSION_ROWS = 128
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to train.

    Attributes:
        steps: optimiser steps in all.
        tokens: tokens of a step, about.
        rate: peak learning rate.
        warmup: steps until the peak.
        decay_frac: share of the steps, at the end, over which the rate falls to nothing.
        joined_frac: texts used once more in joined, longer ones, as a share of the epoch's texts.
        longest: tokens of a joined text at most.
        pair_weight: weight of the similarity loss.
        router_weight: weight of the routers' regression on contributions.
        budgets: how often each budget is trained, by its place in the model's list; adds up to 1.
        seed: fixes everything random.
        bf16: products in bfloat16; faster on CPUs with AMX and on GPUs.
    """

    steps: int
    tokens: int = 2048
    rate: float = 5e-4
    warmup: int = 200
    decay_frac: float = 0.5
    joined_frac: float = 0.1
    longest: int = 256
    pair_weight: float = 1.0
    router_weight: float = 0.1
    budgets: tuple[float, ...] = (0.05, 0.8, 0.05, 0.05, 0.05)
    seed: int = 0
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tokens < 64 or not 0 < self.rate < 1:
            raise OptionError(f"steps {self.steps}, tokens {self.tokens}, rate {self.rate}: one of them is out of range.")
        if not math.isclose(sum(self.budgets), 1.0) or min(self.budgets) < 0:
            raise OptionError(f"The budgets' frequencies {list(self.budgets)} must add up to 1.")

    def rate_at(self, step: int) -> float:
        """Learning rate of one step: linear warm-up, a plateau, linear decay."""
        left = (self.steps - step) / max(1.0, self.steps * self.decay_frac)
        return self.rate * min(1.0, (step + 1) / self.warmup, left)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells while it works: `cosine` is the mean over held-out texts at the main budget."""

    step: int
    steps: int
    texts: int
    tokens_per_s: float
    loss: float
    cosine: float
    heads_share: float
    experts_share: float
    seconds: float


class Distillation:
    """One run: model, parent, text and optimisers; `run` does the steps that are left.

    Args:
        model: the encoder to train.
        parent: its dense parent, in the precision in which it is to be asked.
        corpus: the texts.
        recipe: how to train.
        folder: where checkpoints and the parent's vectors are kept; an interrupted run in it goes on.
        main_budget: the budget whose quality is told.

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
    ) -> None:
        self.model, self.parent, self.corpus, self.recipe, self.folder = model, parent, corpus, recipe, folder
        self.main_budget = main_budget
        self.step = self.texts = 0
        numbers = np.random.default_rng(recipe.seed).permutation(len(corpus))
        held = min(HELD_OUT, len(corpus) // 10)
        self._held, self._members = np.sort(numbers[:held]), numbers[held:]
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
        self._key = json.dumps(
            {"recipe": asdict(recipe), "texts": len(corpus), "tokens": len(corpus.ids), "model": model.config.to_json()},
            sort_keys=True,
        )
        if (folder / CHECKPOINT).exists():
            self._restore()

    def run(self, *, report: Callable[[Progress], None], every: int = 200, checkpoint_s: float = 300.0) -> None:
        """Do the steps that are left.

        Args:
            report: told every `every` steps and at the end.
            every: steps between two reports.
            checkpoint_s: seconds between two checkpoints.
        """
        targets_ND = self._targets()
        saved = begun = time.monotonic()
        tokens, losses = 0, []
        with self.model.controlled(CONTROL_RATE):
            for batch in self._batches():
                losses.append(self._train(batch, targets_ND))
                tokens += batch.ids_BL.size
                self.texts += len(batch.ids_BL)
                self.step += 1
                if self.step % every == 0 or self.step == self.recipe.steps:
                    passed = time.monotonic() - begun
                    report(self._progress(targets_ND, tokens / passed, float(np.mean(losses[-every:])), passed))
                if time.monotonic() - saved > checkpoint_s or self.step == self.recipe.steps:
                    self.save()
                    saved = time.monotonic()

    def _batches(self) -> Iterator[Batch]:
        recipe, epoch, passed = self.recipe, 0, 0
        while True:
            plan = batches(
                self.corpus,
                self._members,
                tokens=recipe.tokens,
                joined_frac=recipe.joined_frac,
                longest=recipe.longest,
                seed=recipe.seed,
                epoch=epoch,
            )
            for kind, texts in plan:
                if self.step >= recipe.steps:
                    return
                if passed >= self.step:
                    batch = gather(self.corpus, kind, texts)
                    if batch is None:
                        continue
                    yield batch
                elif kind != "plain" and gather(self.corpus, kind, texts) is None:
                    continue
                passed += 1
            epoch += 1

    def _train(self, batch: Batch, targets_ND: np.memmap) -> float:
        recipe, model = self.recipe, self.model
        model.train()
        generator = np.random.default_rng([recipe.seed, self.step])
        budget = int(generator.choice(len(recipe.budgets), p=recipe.budgets))
        for optimiser in (self._adam, self._sparse_adam):
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate_at(self.step)
            optimiser.zero_grad(set_to_none=True)
        if batch.texts_B is None:
            with torch.inference_mode():
                target_BD = self.parent(_pack(batch.ids_BL)).float()
            target_BD = target_BD.clone()
        else:
            target_BD = torch.from_numpy(np.asarray(targets_ND[batch.texts_B], np.float32))
        trace: list[LayerTrace] = []
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bf16):
            vectors_BD = model(_pack(batch.ids_BL), budget, trace)
        loss = distillation_loss(vectors_BD, target_BD, recipe.pair_weight)
        routing = torch.stack([self._router_loss(place, layer) for place, layer in enumerate(trace)]).mean()
        (loss + recipe.router_weight * routing).backward()
        nn.utils.clip_grad_norm_(self._dense, 1.0)
        self._adam.step()
        self._sparse_adam.step()
        return float(loss.detach())

    def _router_loss(self, place: int, trace: LayerTrace) -> torch.Tensor:
        layer = self.model.layer(place)
        x_TD = trace.x_TD.detach()[:: max(1, len(trace.x_TD) // REGRESSION_ROWS)]
        with torch.no_grad():
            target_TE = normalised(layer.feed_forward.contributions(x_TD))
        if self.model.config.expert_mode == "sequence":
            return x_TD.new_zeros(())
        return functional.mse_loss(layer.expert_router.scores(x_TD), target_TE)

    def _targets(self) -> np.memmap:
        """[N, D] float16 vectors of the parent, computed once and kept in the folder."""
        path, done = self.folder / "parent.npy", self.folder / "parent.done"
        shape = (len(self.corpus), self.parent.config.width)
        if done.exists():
            targets = np.load(path, mmap_mode="r")
            if targets.shape == shape:
                return targets
        targets = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        order = np.argsort(self.corpus.lengths, kind="stable")
        edges = np.flatnonzero(np.diff(self.corpus.lengths[order])) + 1
        with torch.inference_mode():
            for same in np.split(order, edges):
                size = max(1, 4096 // int(self.corpus.lengths[same[0]]))
                for start in range(0, len(same), size):
                    texts = same[start : start + size]
                    ids = np.stack([self.corpus.text(number) for number in texts]).astype(np.int64)
                    targets[texts] = self.parent(_pack(ids)).float().numpy()
        targets.flush()
        done.touch()
        return targets

    @torch.inference_mode()
    def _progress(self, targets_ND: np.memmap, speed: float, loss: float, seconds: float) -> Progress:
        self.model.eval()
        cosines: list[float] = []
        heads, experts = [0, 0], [0, 0]
        rates = [router.control_rate for router in self.model.routers()]
        for router in self.model.routers():
            router.control_rate = None
        for length in np.unique(self.corpus.lengths[self._held]):
            texts = self._held[self.corpus.lengths[self._held] == length]
            trace: list[LayerTrace] = []
            ids = np.stack([self.corpus.text(number) for number in texts]).astype(np.int64)
            vectors = self.model(_pack(ids), self.main_budget, trace).numpy()
            cosines += np.einsum("nd,nd->n", vectors, np.asarray(targets_ND[texts], np.float32)).tolist()
            for layer in trace:
                for counts, on in ((heads, layer.on_SH), (experts, layer.on_TE)):
                    counts[0] += int(on.sum())
                    counts[1] += on.numel()
        for router, rate in zip(self.model.routers(), rates, strict=True):
            router.control_rate = rate
        return Progress(
            self.step,
            self.recipe.steps,
            self.texts,
            speed,
            loss,
            float(np.mean(cosines)),
            heads[0] / heads[1],
            experts[0] / experts[1],
            seconds,
        )

    def save(self) -> None:
        """Write a checkpoint; the one before stays until the new one is whole."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for kind, optimiser in (("adam", self._adam), ("sparse", self._sparse_adam)):
            for place, state in optimiser.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"{kind}.{place}.{name}"] = torch.as_tensor(value)
        partial = self.folder / (CHECKPOINT + ".part")
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            partial,
            metadata={"step": str(self.step), "texts": str(self.texts), "key": self._key},
        )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self.folder / CHECKPOINT)

    def _restore(self) -> None:
        path = self.folder / CHECKPOINT
        metadata = checkpoint_metadata(path)
        if metadata.get("key") != self._key:
            raise OptionError(
                f"{path} is of another run: another model, text or recipe. Give the same ones, or another folder."
            )
        tensors = load_file(path)
        self.step, self.texts = int(metadata["step"]), int(metadata["texts"])
        self.model.load_state_dict({n[6:]: v for n, v in tensors.items() if n.startswith("model.")})
        for kind, optimiser in (("adam", self._adam), ("sparse", self._sparse_adam)):
            state: dict[int, dict[str, object]] = {}
            for name, value in tensors.items():
                if name.startswith(f"{kind}."):
                    _, place, part = name.split(".", 2)
                    state.setdefault(int(place), {})[part] = int(value) if kind == "sparse" and part == "step" else value
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def checkpoint_metadata(path: Path) -> dict[str, str]:
    """What a checkpoint says about itself.

    Raises:
        ModelFileError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ValueError) as error:
        raise ModelFileError(f"The checkpoint {path} cannot be read: {error}. Delete it to start over.") from error
    return dict(header.get("__metadata__", {}))


def distillation_loss(vectors_BD: torch.Tensor, target_BD: torch.Tensor, pair_weight: float) -> torch.Tensor:
    """Mean cosine distance to the parent's vectors, and mean squared error of the similarities in the batch."""
    distance = 1 - (vectors_BD * target_BD).sum(dim=1).mean()
    pairs = functional.mse_loss(vectors_BD @ vectors_BD.t(), target_BD @ target_BD.t())
    return distance + pair_weight * pairs


def _pack(ids_BL: Ints) -> Pack:
    texts, length = ids_BL.shape
    return Pack(
        torch.from_numpy(ids_BL.reshape(-1)), torch.arange(length).repeat(texts), (Run(0, texts, length),)
    )
