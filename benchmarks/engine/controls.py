"""The controls that the routed encoder must beat: trained on the same text, with the same loss, for the same time.

    python -m benchmarks.engine.controls --text sentences.tsv.gz --seconds 3600 --output controls

- `routed`: the shape of the shipped encoder.
- `random`: the same shape; its routers are random projections that are never trained.
- `layers`: a dense student of two layers, the first and the last.
- `width`: a static student of all layers, 6 heads and 304 neurons each, the strongest ones; nothing is routed.

Each is timed for some steps first, and then gets as many steps as fit into the seconds; or as many as are named, as for
the student that the shipped `routed` is cut from. Runs go on where they stopped.
The files are encoders like any other: `python -m benchmarks.engine --controls controls/*.safetensors`.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from engine.errors import OptionError
from engine.model.config import RoutedConfig
from engine.model.dense import pack
from engine.model.routed import RoutedEncoder
from engine.training.convert import CALIBRATION_TOKENS, calibrate_thresholds, convert
from engine.training.corpus import Corpus
from engine.training.distill import Distillation
from engine.training.jobs import Shape, joined_corpus, noisy_corpus, read_texts, sample_texts
from engine.training.schedule import Progress, Recipe
from engine.weights.in_memory import dense_encoder, load_stored_model
from engine.weights.routed_file import write_routed
from engine.weights.safetensors_file import TensorFile
from engine.weights.shipped import DenseFiles, read_minilm

TIMED_STEPS = 40
STATE_FRAC = 0.48
"""Share of the steps that learn token states, as in the shipped recipe."""
CONTINUED_STATE_FRAC = 0.35
"""The same of a run that goes on from an encoder, whose states are near already: a step without them takes less."""
STATIC = (1.0, 0.0)
"""Training budgets of a student whose routed parts are never used."""


@dataclass(frozen=True)
class Control:
    """A student: its shape, how often each budget is trained, and what is done to it before training."""

    config: Callable[[DenseFiles], RoutedConfig]
    budgets: tuple[float, ...]
    prepare: Callable[[RoutedEncoder, int], None] = lambda model, seed: None


def _layers(files: DenseFiles) -> RoutedConfig:
    shape = Shape(layers=(0, files.config.layers - 1), heads=9, main_budget=0.3)
    # All but 96 neurons are shared: a step of 14 experts that always work takes a seventh more time.
    dense = replace(shape.plan(files), shared_neurons=1440, experts=2, expert_width=48)
    return replace(dense, budgets=(1.0,), head_shares=(1.0,), expert_shares=(1.0,))


def _width(files: DenseFiles) -> RoutedConfig:
    shape = Shape(shared_neurons=304, heads=6, main_budget=0.31)
    return replace(shape.plan(files), budgets=(0.3, 1.0), head_shares=(0.0, 1.0), expert_shares=(0.0, 1.0))


def _randomise(model: RoutedEncoder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for router in model.routers():
        router.weight.data = torch.randn(router.weight.shape, generator=generator)
        router.bias.data.zero_()
        router.weight.requires_grad_(False)
        router.bias.requires_grad_(False)


_ROUTED = Shape(layers=(0, 5), heads=12, shared_neurons=768, experts=8)
CONTROLS = {
    "routed": Control(_ROUTED.plan, Recipe(steps=1).budgets),
    "random": Control(_ROUTED.plan, Recipe(steps=1).budgets, _randomise),
    "layers": Control(_layers, (1.0,)),
    "width": Control(_width, STATIC),
}


def main() -> None:
    """Train the controls that are asked for, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files of training text, one text a line")
    parser.add_argument("--output", type=Path, required=True, help="folder for the encoders and checkpoints")
    parser.add_argument("--seconds", type=float, default=3600.0, help="training time of each (default 3600)")
    parser.add_argument("--steps", type=int, help="steps of each, in place of what fits into the seconds")
    parser.add_argument("--which", default=",".join(CONTROLS), help="some of %(default)s, with commas between them")
    parser.add_argument("--limit", type=int, help="texts to read at most")
    parser.add_argument("--rate", type=float, default=6e-4, help="peak learning rate (default 6e-4)")
    parser.add_argument("--start", type=Path, help="go on from this encoder of the same shape, not from the parent")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := set(given.which.split(",")) - set(CONTROLS):
        parser.error(f"--which has {', '.join(sorted(unknown))}; it takes some of {', '.join(CONTROLS)}")
    files = read_minilm()
    corpus = joined_corpus(files, read_texts(files, given.text, limit=given.limit), seed=given.seed)
    for name in given.which.split(","):
        _train(name, files, corpus, given)


def _train(name: str, files: DenseFiles, corpus: Corpus, given: argparse.Namespace) -> None:
    """Train one control and write `<name>.safetensors`; a run that was stopped goes on.

    Raises:
        OptionError: the encoder to start from has another shape.
    """
    control, seed, start = CONTROLS[name], given.seed, given.start
    config = control.config(files)
    calibration = sample_texts(corpus, seed, CALIBRATION_TOKENS)
    parent, noisy = dense_encoder(files.config, files.tensors), noisy_corpus(files, corpus, seed=seed)
    origin, trained, before, state_frac = "", "", 0, STATE_FRAC
    if start is not None:
        state_frac = CONTINUED_STATE_FRAC
        with TensorFile(start) as file:
            origin, trained = file.sha256, file.metadata["trained"] + ", then "
            before = int(file.metadata["steps"])

    def fresh() -> RoutedEncoder:
        if start is not None:
            return _stored(start, config)
        model = convert(config, files.tensors, calibration, torch.Generator().manual_seed(seed))
        control.prepare(model, seed)
        return model

    def recipe(steps: int) -> Recipe:
        weight = 0.0 if name == "random" else Recipe(steps=1).router_weight
        how = {"rate": given.rate, "budgets": control.budgets, "router_weight": weight, "seed": seed}
        return Recipe(steps=steps, state_steps=int(steps * state_frac), **how)

    def report(progress: Progress) -> None:
        print(f"{name}: step {progress.step} of {steps}, cosine {progress.cosine:.4f}", flush=True)

    output, main_budget = given.output / name, control.budgets.index(max(control.budgets))
    plan = output / "steps.json"
    if not plan.exists() and given.steps is None:
        timing = Distillation(fresh(), parent, noisy, recipe(TIMED_STEPS), output / "timing", main_budget=main_budget)
        began = time.monotonic()
        timing.run(report=lambda _: None, every=TIMED_STEPS)
        timed = (time.monotonic() - began) / TIMED_STEPS
        plan.write_text(json.dumps({"steps": int(given.seconds / timed), "seconds": given.seconds}))
    steps = given.steps or int(json.loads(plan.read_text())["steps"])
    where = {"main_budget": main_budget, "start": origin, "written": len(corpus)}
    run = Distillation(fresh(), parent, noisy, recipe(steps), output, **where)
    run.run(report=report, every=200)
    model = run.model.requires_grad_(False)
    calibrate_thresholds(model, pack(sorted(sample_texts(corpus, seed + 1, 4 * CALIBRATION_TOKENS), key=len)))
    notes = {"control": name, "steps": f"{before + steps}", "trained": f"{trained}{run.step} steps, {run.texts} texts"}
    notes |= {"seconds": f"{given.seconds:g}"} if plan.exists() else {}
    write_routed(output.with_suffix(".safetensors"), model, files.tokenizer, notes)


def _stored(start: Path, config: RoutedConfig) -> RoutedEncoder:
    with TensorFile(start) as file:
        model, _ = load_stored_model(file)
    if not isinstance(model, RoutedEncoder) or model.config != config:
        raise OptionError(f"{start} does not have the shape of this control: give a file that this command wrote.")
    return model.requires_grad_(True)


if __name__ == "__main__":
    main()
