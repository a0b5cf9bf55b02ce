"""The bars of the weak labels on folders in WRENCH's JSON format, beside the label models of other projects.

    python -m benchmarks.weak_labels --data DIR [DIR ...] [--parts label,end,gold,selected,scale] [--output FILE]

A DIR holds train.json (or valid.json in its place) and test.json: `{"i": {"label", "weak_labels", "data": {"text"}}}`,
and, if no row is of some class, label.json with the names of all; a part that needs texts, or the true classes of the
train rows, is left out with a word where a folder has none. All models learn from the votes of the train file alone,
constants were chosen on train and valid files, and the test file is only scored. Accuracy, or F1 of class 1 for folders
whose names are those of sets that are published so, or that `--f1 NAME ...` names. Peers are installed into
`.venv-peers-labels` once, and each is given --peer-limit seconds of processor time on a set; vectors are kept in
`.cache/`. --output is written after every set, with a page (.md) and a plot (.svg) of the same name. A set stays as
measured while its rows, the code that is measured and the limit are the same, so a run that was broken off goes on
where it was.
"""

import argparse
import functools
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.earlier import earlier_figures
from benchmarks.environment import environment
from benchmarks.weak_labels_curve import curve
from benchmarks.weak_labels_data import F1, DataSet, Split, read
from benchmarks.weak_labels_report import page
from benchmarks.weak_labels_selected import Begun, selected
from engine.load import load_encoder
from weak_labels.calibration import calibration_error
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.gold_update import learn
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel, Features, Floats, Ints
from weak_labels.classifiers.self_training import Words, self_trained
from weak_labels.label_models import LabelModelConfig, VoteMatrix, fit

ROOT = Path(__file__).parents[1]
PARTS = ("label", "end", "gold", "selected", "scale")
OURS = ("auto", "anchored", "majority", "snorkel", "dawid_skene")
PEERS = ("flyingsquid==0.0.0a0", "crowd-kit==1.4.2", "pgmpy==0.1.19")
PEERS_NEED = ("numpy<2", "pandas<3", "scikit-learn<1.6", "scipy", "networkx", "tqdm", "nltk", "attrs", "packaging")
GOLD_SIZES = (10, 30, 60, 120, 240, 480, 960)
GOLD_SEEDS = 10
MEASURED = (
    "weak_labels/label_models/*.py",
    "weak_labels/classifiers/linear.py",
    "weak_labels/classifiers/feature_map.py",
    "weak_labels/classifiers/gold_update.py",
    "weak_labels/losses.py",
    "weak_labels/classifiers/self_training.py",
    "weak_labels/classifiers/inputs.py",
)
SELECTED = (
    "active/pool/graph.py",
    "active/pool/pool.py",
    "active/value/with_weak_labels.py",
    "active/value/stage.py",
    "active/strategies/base.py",
    "active/strategies/value.py",
    "benchmarks/selection_loop.py",
    "benchmarks/selection_strategies.py",
    "benchmarks/weak_labels_selected.py",
)
"""What the part `selected` rests on besides."""
MEASURED_BY = ("benchmarks/weak_labels.py", "benchmarks/weak_labels_peers.py")


def main() -> None:
    """Measure, print JSON, write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="DIR")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s, with commas between them")
    f1_help = f"names of folders scored by F1 of class 1 (default {', '.join(F1)})"
    parser.add_argument("--f1", nargs="*", metavar="NAME", help=f1_help)
    parser.add_argument("--peer-limit", type=int, default=30, metavar="S", help="CPU seconds (default %(default)s)")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    wanted = arguments.parts.split(",")
    if set(wanted) - set(PARTS):
        parser.error(f"--parts is {arguments.parts}; it takes some of {', '.join(PARTS)}")
    if not arguments.data and wanted != ["scale"]:
        parser.error("--data names no folder; only the part `scale` needs none")
    figures: dict[str, Any] = {"benchmark": "weak_labels", "parts": {}}
    folders = [Path(os.path.abspath(folder)) for folder in arguments.data]  # so that "." has a name
    by_f1 = F1 if arguments.f1 is None else arguments.f1
    try:
        figures["parts"] = earlier_figures(arguments.output, "weak_labels").get("parts", {})
        sets = [read(folder, f1=folder.name in by_f1) for folder in folders]
    except ValueError as error:
        parser.error(str(error))
    if len({data.name for data in sets}) < len(sets):
        parser.error("two folders of --data have one name, by which figures are kept; rename one")
    if arguments.f1 and (unknown := set(arguments.f1) - {data.name for data in sets}):
        parser.error(f"--f1 names {', '.join(sorted(unknown))}, which --data does not")
    for data in sets:
        if (rarer := data.rare()) is not None:
            told = f"{data.name} is scored by accuracy, and {rarer:.0%} of its test rows are of the rarer class"
            print(f"{told}; --f1 {data.name} scores it by F1 of class 1.", file=sys.stderr)
    limit = arguments.peer_limit
    measures = {"label": functools.partial(label, limit_s=limit), "end": end, "gold": gold, "selected": asked}
    work: list[tuple[str, str, DataSet | None, Callable[[], dict[str, Any]]]] = [
        (part, data.name, data, functools.partial(measures[part], data)) for part in measures for data in sets
    ]
    work.append(("scale", "made up", None, scale))
    for part, name, data, measure in work:
        if part not in wanted:
            continue
        if data is not None and (lacking := data.lacks(part)):
            print(f"{name} lacks {lacking}, so its part `{part}` is not measured.", file=sys.stderr)
            continue
        found = figures["parts"].setdefault(part, {})
        key = _key(part, data, limit)
        if found.get(name, {}).get("key") == key:
            continue
        began = time.monotonic()
        measured = measure()
        found[name] = {"figures": measured, "seconds": round(time.monotonic() - began, 1), "key": key, **environment()}
        if arguments.output:
            _write(arguments.output, figures)
    if arguments.output:
        _write(arguments.output, figures)
    print(json.dumps(figures, indent=2))


def _write(output: Path, figures: dict[str, Any]) -> None:
    """The JSON, and from it the page and the plot beside it."""
    output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    plot = output.with_suffix(".svg")
    if figures["parts"].get("gold"):
        plot.write_text(curve(figures["parts"]["gold"]), "utf-8")
    output.with_suffix(".md").write_text(page(figures, plot.name), "utf-8")


def _key(part: str, data: DataSet | None, limit_s: int) -> str:
    """Hash of the rows, of the code that is measured or measures, and of the peers' limit."""
    patterns = (*MEASURED, *MEASURED_BY, *(SELECTED if part == "selected" else ()))
    files = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
    rows = (
        [(split.texts, split.votes.tolist(), split.truth.tolist()) for split in (data.train, data.test)] if data else []
    )
    classes, f1 = (data.classes, data.f1) if data else (0, False)
    told = json.dumps([[path.read_text("utf-8") for path in files], rows, classes, f1, limit_s])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def label(data: DataSet, limit_s: int) -> dict[str, Any]:
    """Test figures of the label models alone, ours and the peers', in one run; also on covered rows."""
    votes_NL = np.concatenate([data.train.votes, data.test.votes])
    train_N = np.arange(len(votes_NL)) < len(data.train.votes)
    answers: dict[str, Ints] = {}
    seconds: dict[str, float] = {}
    fallback = 0
    for kind in OURS:
        began = time.process_time()
        fitted = fit(votes_NL, _config(data, kind), train_N)
        seconds[kind] = time.process_time() - began
        answers[kind] = fitted.probs.argmax(axis=1)
        if kind == "majority":
            fallback = int(fitted.prior.argmax())
    peers, peers_seconds, failed = _peer_answers(_peers(), votes_NL, train_N, data.classes, limit_s)
    answers |= peers
    covered = (data.test.votes >= 0).any(axis=1)
    models: dict[str, Any] = {}
    for name, answer in answers.items():
        # Peers say nothing about rows without a vote; they get the majority's most frequent class.
        predicted = np.where(answer < 0, fallback, answer)[~train_N]
        right = (predicted == data.test.truth)[covered]
        models[name] = {
            "score": round(data.score(predicted), 4),
            "covered_accuracy": round(float(right.mean()), 4),
            "cpu_s": round((seconds | peers_seconds)[name], 1),
        }
    stopped = [name for name in peers_seconds if name not in answers and name not in failed]
    return {
        "measure": data.measure,
        "covered_frac": round(float(covered.mean()), 4),
        "models": models,
        "stopped": stopped,
        "failed": failed,
        "peer_limit_s": limit_s,
    }


def end(data: DataSet) -> dict[str, Any]:
    """Test figures of the end model on weak labels alone, with and without self-training; how sure two of them are."""
    found: dict[str, Any] = {}
    for name, kind, trained in (
        ("self-trained on auto", "auto", True),
        ("auto", "auto", False),
        ("self-trained on majority", "majority", True),
        ("majority", "majority", False),
    ):
        taught = _taught(data, kind, trained)
        probs_NC = taught.weak_only.predict_proba(taught.test)
        found[name] = round(data.score(probs_NC.argmax(axis=1)), 4)
        if kind == "auto":
            of = "calibration_error" if trained else "calibration_error_of_default"
            found[of] = calibration_error(probs_NC, data.test.truth)
    return {**found, "measure": data.measure}


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What weak labels teach an end model, and what it sees of train and test rows."""

    weak: tuple[EndModel, ...]
    sight: Sight
    train: Features
    test: Features

    @functools.cached_property
    def weak_only(self) -> EndModel:
        """The end model without any gold label."""
        return self.learn(np.empty(0, np.int64), np.empty(0, np.int64))

    def learn(self, rows: Ints, class_ids: Ints) -> EndModel:
        """The end model with the gold labels of some train rows besides."""
        views, classes = self.sight.views(self.train), len(self.weak[0].intercept_C)
        return learn(self.weak, self.train[rows], class_ids, classes, views=views)


@functools.cache
def _taught(data: DataSet, kind: str, trained: bool) -> Taught:
    vectors, unseen = _vectors(data.train), _vectors(data.test)
    fitted = fit(data.train.votes, _config(data, kind))
    probs_NC, weights_N, words = fitted.probs, (fitted.votes > 0).astype(np.float64), None
    if trained:
        found = self_trained(vectors, data.train.texts, probs_NC, weights_N)
        probs_NC, weights_N, words = found.probs, found.weights, found.words
    sight = Sight(feature_map=FeatureMap.fit(vectors), words=words, as_they_are=True)
    train = sight.of(vectors, data.train.texts)
    weak = [EndModel.fit_weak(train[:, view], probs_NC, weights_N) for view in sight.views(train)]
    return Taught(
        weak=tuple(model for model in weak if model), sight=sight, train=train, test=sight.of(unseen, data.test.texts)
    )


@functools.cache
def _seen_alone(data: DataSet) -> tuple[Features, Features]:
    """What an end model without weak labels sees of the rows: the map of vectors, and words where the other does."""
    words = Words.fit(data.train.texts) if _taught(data, "auto", True).sight.words else None
    sight = Sight(feature_map=FeatureMap.fit(_vectors(data.train)), words=words)
    return sight.of(_vectors(data.train), data.train.texts), sight.of(_vectors(data.test), data.test.texts)


def gold(data: DataSet) -> dict[str, Any]:
    """Weak then clean, beside weak only and clean only, at some sizes of gold labels picked at random."""
    taught = _taught(data, "auto", True)
    alone, alone_test = _seen_alone(data)
    weak_only = round(data.score(taught.weak_only.predict_proba(taught.test).argmax(axis=1)), 4)
    sizes: dict[str, Any] = {}
    for size in (size for size in GOLD_SIZES if size <= len(data.train.truth)):
        figures: dict[str, list[float]] = {"weak_then_gold": [], "gold_only": []}
        for seed in range(GOLD_SEEDS):
            picked = np.random.default_rng(seed).permutation(len(data.train.truth))[:size]
            labels = data.train.truth[picked]
            for name, model, test in (
                ("weak_then_gold", taught.learn(picked, labels), taught.test),
                ("gold_only", learn((), alone[picked], labels, data.classes), alone_test),
            ):
                figures[name].append(data.score(model.predict_proba(test).argmax(axis=1)))
        sizes[str(size)] = {
            name: {"mean": round(statistics.fmean(values), 4), "sd": round(statistics.stdev(values), 4)}
            for name, values in figures.items()
        }
    return {"weak_only": weak_only, "measure": data.measure, "sizes": sizes}


def asked(data: DataSet) -> dict[str, Any]:
    """Weak then clean with labels that the selection asks for, beside clean only on these and on random ones."""
    taught = _taught(data, "auto", True)
    begun = Begun(
        votes=VoteMatrix.from_dense(data.train.votes, data.classes),
        weak=fit(data.train.votes, _config(data, "auto")).probs,
        vectors=_vectors(data.train),
        features=taught.train,
        features_alone=_seen_alone(data)[0],
        truth=data.train.truth,
        weak_only=taught.weak_only,
        learn=taught.learn,
    )

    def score(model: EndModel, *, alone: bool = False) -> float:
        seen = _seen_alone(data)[1] if alone else taught.test
        return data.score(model.predict_proba(seen).argmax(axis=1))

    found = selected(begun, score)
    return {**found, "measure": data.measure}


def scale() -> dict[str, Any]:
    """The anchored model and `auto` on 1,000,000 items x 100 functions at 5% coverage, 4 classes, in a child."""
    code = "from benchmarks.weak_labels import scale_child; scale_child()"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(told.stdout)


def scale_child() -> None:
    """Measure in this process, whose peak memory then is that of the models."""
    items, functions, classes = 1_000_000, 100, 4
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, items)
    cast = 50_000
    row_V = np.concatenate([generator.choice(items, cast, replace=False) for _ in range(functions)])
    function_V = np.repeat(np.arange(functions), cast)
    accuracy_V = np.repeat(generator.uniform(0.4, 0.95, functions), cast)
    wrong_V = (truth[row_V] + generator.integers(1, classes, len(row_V))) % classes
    class_V = np.where(generator.random(len(row_V)) < accuracy_V, truth[row_V], wrong_V)
    votes = VoteMatrix.from_triples(row_V, function_V, class_V, items=items, functions=functions, classes=classes)
    found: dict[str, Any] = {}
    for kind in ("majority", "anchored", "auto"):
        began = time.monotonic()
        config = LabelModelConfig(kind=kind, classes=tuple(map(str, range(classes))))
        fitted = fit(votes, config)
        right = float((fitted.probs.argmax(axis=1) == truth)[fitted.votes > 0].mean())
        found[kind] = {"seconds": round(time.monotonic() - began, 1), "used": fitted.kind, "accuracy": round(right, 4)}
    # Not `ru_maxrss`, which begins with what the process had before exec: that of the parent with all its sets.
    status = Path("/proc/self/status").read_text("ascii")
    found["peak_gib"] = round(int(status.split("VmHWM:")[1].split()[0]) / 1024**2, 2)
    print(json.dumps(found))


def _config(data: DataSet, kind: str) -> LabelModelConfig:
    return LabelModelConfig(kind=kind, classes=tuple(f"class {place}" for place in range(data.classes)))


def _vectors(split: Split) -> Floats:
    encoder = load_encoder("dense", max_tokens=128)
    content = hashlib.sha256(json.dumps([encoder.encoder_id, split.texts]).encode()).hexdigest()[:16]
    cached = ROOT / ".cache" / f"vectors-{content}.npy"
    if not cached.is_file():
        cached.parent.mkdir(exist_ok=True)
        np.save(cached, encoder.embed(split.texts).vectors)
    return np.load(cached).astype(np.float64)


def _peers() -> Path:
    """The interpreter of the peers' environment, made where it is missing."""
    folder = ROOT / ".venv-peers-labels"
    python = folder / "bin" / "python"
    if not (folder / "done").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        # Without their dependencies, which ask for torch and transformers that these models do not use.
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", *PEERS], check=True)
        more = [*PEERS_NEED, "opt_einsum", "pyparsing", "statsmodels"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *more], check=True)
        (folder / "done").touch()
    return python


def _peer_answers(
    python: Path, votes_NL: Ints, train_N: Any, classes: int, limit_s: int
) -> tuple[dict[str, Ints], dict[str, float], dict[str, str]]:
    """Answers of the peers that ended within the limit, the CPU seconds of all, and errors of those that raised one."""
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder) / "votes.npz", Path(folder) / "answers.npz"
        np.savez(given, votes=votes_NL, train=train_N, classes=classes, limit_s=limit_s)
        script = Path(__file__).with_name("weak_labels_peers.py")
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [str(python), "-W", "ignore", str(script), str(given), str(told)]
        subprocess.run(command, check=True, env=one_thread)
        found = {name: answer for name, answer in np.load(told).items()}
    seconds = {name.removeprefix("seconds:"): float(found[name]) for name in found if name.startswith("seconds:")}
    failed = {name.removeprefix("failed:"): str(found[name]) for name in found if name.startswith("failed:")}
    return {name: found[name].astype(np.int64) for name in found if name in seconds}, seconds, failed


if __name__ == "__main__":
    main()
