"""The bars of the weak labels on folders in WRENCH's JSON format, beside the label models of other projects.

    python -m benchmarks.weak_labels --data DIR [DIR ...] [--parts label,end,gold,selected,scale] [--output FILE]

A DIR holds train.json (or valid.json in its place) and test.json: `{"i": {"label", "weak_labels", "data": {"text"}}}`,
and, if no row is of some class, label.json with the names of all; a part that needs texts, or the true classes of the
train rows, is left out with a word where a folder has none. All models learn from the votes of the train file alone,
constants were chosen on train and valid files, and the test file is only scored. Accuracy, or F1 of class 1 for folders
whose names are those of sets that are published so, or that `--f1 NAME ...` names. Each peer is given --peer-limit
seconds of processor time on a set. --output is written after every set, with page and plot. A set stays as measured
while its rows, the code that is measured and the limit are the same, so a run that was broken off goes on where it was.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data.files import vectors as embedded
from benchmarks.data.wrench import F1, DataSet, Split, read
from benchmarks.harness import (
    ROOT,
    Figures,
    add_parts,
    chosen_parts,
    earlier_figures,
    environment,
    mean_and_sd,
    measured,
    peer_python,
)
from benchmarks.harness import command as command_line
from benchmarks.pages import keep
from benchmarks.weak_labels.selected import Begun, selected
from benchmarks.weak_labels.verdicts import PARTS, pages
from weak_labels.calibration import calibration_error
from weak_labels.classifiers.feature_map import FeatureMap
from weak_labels.classifiers.gold_update import learn
from weak_labels.classifiers.inputs import Sight
from weak_labels.classifiers.linear import EndModel, Features, Floats, Ints
from weak_labels.classifiers.self_training import Words, self_trained
from weak_labels.label_models import LabelModelConfig, VoteMatrix, fit

OURS = ("auto", "anchored", "majority", "snorkel", "dawid_skene")
GOLD_SIZES = (10, 30, 60, 120, 240, 480, 960)
GOLD_SEEDS = 10
MEASURED = (
    "weak_labels/label_models",
    "weak_labels/classifiers",
    "benchmarks/weak_labels",
    "benchmarks/peers/weak_labels.py",
)
SELECTED = ("active/pool", "active/value", "active/strategies", "benchmarks/selection")
"""What the part `selected` rests on besides."""


def main() -> None:
    """Measure, print JSON, write where asked."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="DIR")
    add_parts(parser, PARTS)
    f1_help = f"names of folders scored by F1 of class 1 (default {', '.join(F1)})"
    parser.add_argument("--f1", nargs="*", metavar="NAME", help=f1_help)
    parser.add_argument("--peer-limit", type=int, default=30, metavar="S", help="CPU seconds (default %(default)s)")
    given = parser.parse_args()
    wanted = chosen_parts(parser, given.parts, PARTS)
    if not given.data and wanted != ["scale"]:
        parser.error("--data names no folder; only the part `scale` needs none")
    folders = [Path(os.path.abspath(folder)) for folder in given.data]  # so that "." has a name
    by_f1 = F1 if given.f1 is None else given.f1
    try:
        figures = earlier_figures(given.output, "weak_labels") or {"benchmark": "weak_labels", "parts": {}}
        sets = {folder.name: read(folder, f1=folder.name in by_f1) for folder in folders}
    except ValueError as error:
        parser.error(str(error))
    if len(sets) < len(folders):
        parser.error("two folders of --data have one name, by which figures are kept; rename one")
    if given.f1 and (unknown := set(given.f1) - set(sets)):
        parser.error(f"--f1 names {', '.join(sorted(unknown))}, which --data does not")
    for name, data in sets.items():
        if (rarer := data.rare()) is not None:
            told = f"{name} is scored by accuracy, and {rarer:.0%} of its test rows are of the rarer class"
            print(f"{told}; --f1 {name} scores it by F1 of class 1.", file=sys.stderr)
    shown = functools.partial(pages, plot=given.output.with_suffix(".svg").name if given.output else "")
    for part in wanted:
        for name, data in sets.items() if part != "scale" else (("made up", None),):
            if data is not None and (lacking := data.lacks(part)):
                print(f"{name} lacks {lacking}, so its part `{part}` is not measured.", file=sys.stderr)
                continue
            found = figures["parts"].setdefault(part, {})
            key = _key(part, data, given.peer_limit)
            if found.get(name, {}).get("key") != key:
                measure = functools.partial(MEASURES[part], data, given.peer_limit)
                figures_of_set, how = measured(measure)
                found[name] = {"figures": figures_of_set, "seconds": how["seconds"], "key": key, **environment()}
                keep(figures, given.output, shown)
    keep(figures, given.output, shown)
    print(json.dumps(figures, indent=2))


def _key(part: str, data: DataSet | None, limit_s: int) -> str:
    """Hash of the rows, of the code that is measured or measures, and of the peers' limit."""
    sources = [ROOT / source for source in (*MEASURED, *(SELECTED if part == "selected" else ()))]
    files = [file for source in sources for file in (sorted(source.rglob("*.py")) if source.is_dir() else [source])]
    splits = (data.train, data.test) if data else ()
    rows = [(split.texts, split.votes.tolist(), split.truth.tolist()) for split in splits]
    classes, f1 = (data.classes, data.f1) if data else (0, False)
    told = json.dumps([[path.read_text("utf-8") for path in files], rows, classes, f1, limit_s])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _label(data: DataSet, limit_s: int) -> Figures:
    """Test figures of the label models alone, ours and the peers', in one run; also on covered rows."""
    votes_NL = np.concatenate([data.train.votes, data.test.votes])
    train_N = np.arange(len(votes_NL)) < len(data.train.votes)
    answers, seconds, failed = _peer_answers(votes_NL, train_N, data.classes, limit_s)
    fallback = 0
    for kind in reversed(OURS):
        began = time.process_time()
        fitted = fit(votes_NL, _config(data, kind), train_N)
        seconds = {kind: time.process_time() - began, **seconds}
        answers = {kind: fitted.probs.argmax(axis=1), **answers}
        fallback = int(fitted.prior.argmax()) if kind == "majority" else fallback
    covered = (data.test.votes >= 0).any(axis=1)
    models: Figures = {}
    for name, answer in answers.items():
        # Peers say nothing about rows without a vote; they get the majority's most frequent class.
        predicted = np.where(answer < 0, fallback, answer)[~train_N]
        right = float((predicted == data.test.truth)[covered].mean())
        models[name] = {"score": round(data.score(predicted), 4), "covered_accuracy": round(right, 4)}
        models[name]["cpu_s"] = round(seconds[name], 1)
    return {
        "measure": data.measure,
        "covered_frac": round(float(covered.mean()), 4),
        "models": models,
        "stopped": [name for name in seconds if name not in answers and name not in failed],
        "failed": failed,
        "peer_limit_s": limit_s,
    }


def _peer_answers(
    votes_NL: Ints, train_N: np.ndarray, classes: int, limit_s: int
) -> tuple[dict[str, Ints], dict[str, float], dict[str, str]]:
    """Answers of the peers that ended within the limit, the CPU seconds of all, and errors of those that raised one."""
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder) / "votes.npz", Path(folder) / "answers.npz"
        np.savez(given, votes=votes_NL, train=train_N, classes=classes, limit_s=limit_s)
        call = [peer_python("labels"), "-W", "ignore", "-m", "benchmarks.peers.weak_labels", given, told]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        subprocess.run(call, check=True, env=one_thread, cwd=ROOT)
        found = dict(np.load(told).items())
    seconds = {name.removeprefix("seconds:"): float(found[name]) for name in found if name.startswith("seconds:")}
    failed = {name.removeprefix("failed:"): str(found[name]) for name in found if name.startswith("failed:")}
    return {name: found[name].astype(np.int64) for name in found if name in seconds}, seconds, failed


def _end(data: DataSet, _: int) -> Figures:
    """Test figures of the end model on weak labels alone, with and without self-training; how sure two of them are."""
    found: Figures = {}
    for kind in ("auto", "majority"):
        for trained in (True, False):
            taught = _taught(data, kind, trained)
            probs_NC = taught.weak_only.predict_proba(taught.test)
            found[f"self-trained on {kind}" if trained else kind] = round(data.score(probs_NC.argmax(axis=1)), 4)
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
    seen = {"train": train, "test": sight.of(unseen, data.test.texts)}
    return Taught(weak=tuple(model for model in weak if model), sight=sight, **seen)


@functools.cache
def _seen_alone(data: DataSet) -> tuple[Features, Features]:
    """What an end model without weak labels sees of the rows: the map of vectors, and words where the other does."""
    words = Words.fit(data.train.texts) if _taught(data, "auto", True).sight.words else None
    sight = Sight(feature_map=FeatureMap.fit(_vectors(data.train)), words=words)
    return sight.of(_vectors(data.train), data.train.texts), sight.of(_vectors(data.test), data.test.texts)


def _gold(data: DataSet, _: int) -> Figures:
    """Weak then clean, beside weak only and clean only, at some sizes of gold labels picked at random."""
    taught, (alone, alone_test) = _taught(data, "auto", True), _seen_alone(data)

    def score(model: EndModel, seen: Features) -> float:
        return data.score(model.predict_proba(seen).argmax(axis=1))

    sizes: Figures = {}
    for size in (size for size in GOLD_SIZES if size <= len(data.train.truth)):
        both, gold_only = list[float](), list[float]()
        for seed in range(GOLD_SEEDS):
            picked = np.random.default_rng(seed).permutation(len(data.train.truth))[:size]
            labels = data.train.truth[picked]
            both.append(score(taught.learn(picked, labels), taught.test))
            gold_only.append(score(learn((), alone[picked], labels, data.classes), alone_test))
        sizes[str(size)] = {"weak_then_gold": mean_and_sd(both), "gold_only": mean_and_sd(gold_only)}
    return {"weak_only": round(score(taught.weak_only, taught.test), 4), "measure": data.measure, "sizes": sizes}


def _selected(data: DataSet, _: int) -> Figures:
    """Weak then clean with labels that the selection asks for, beside clean only on these and on random ones."""
    taught, alone = _taught(data, "auto", True), _seen_alone(data)
    begun = Begun(
        votes=VoteMatrix.from_dense(data.train.votes, data.classes),
        weak=fit(data.train.votes, _config(data, "auto")).probs,
        vectors=_vectors(data.train),
        features=taught.train,
        features_alone=alone[0],
        truth=data.train.truth,
        weak_only=taught.weak_only,
        learn=taught.learn,
    )

    def score(model: EndModel, **of: bool) -> float:
        return data.score(model.predict_proba(alone[1] if of else taught.test).argmax(axis=1))

    return {**selected(begun, score), "measure": data.measure}


def _scale(*_: object) -> Figures:
    """The anchored model and `auto` on 1,000,000 items x 100 functions at 5% coverage, 4 classes, in a child."""
    code = "from benchmarks.weak_labels.__main__ import scale_child; scale_child()"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(told.stdout)


def scale_child() -> None:
    """Measure in this process, whose peak memory then is that of the models."""
    items, functions, classes, cast = 1_000_000, 100, 4, 50_000
    generator = np.random.default_rng(0)
    truth = generator.integers(0, classes, items)
    row_V = np.concatenate([generator.choice(items, cast, replace=False) for _ in range(functions)])
    function_V = np.repeat(np.arange(functions), cast)
    accuracy_V = np.repeat(generator.uniform(0.4, 0.95, functions), cast)
    wrong_V = (truth[row_V] + generator.integers(1, classes, len(row_V))) % classes
    class_V = np.where(generator.random(len(row_V)) < accuracy_V, truth[row_V], wrong_V)
    votes = VoteMatrix.from_triples(row_V, function_V, class_V, items=items, functions=functions, classes=classes)
    found: Figures = {}
    for kind in ("majority", "anchored", "auto"):
        began = time.monotonic()
        fitted = fit(votes, LabelModelConfig(kind=kind, classes=tuple(map(str, range(classes)))))
        right = float((fitted.probs.argmax(axis=1) == truth)[fitted.votes > 0].mean())
        found[kind] = {"seconds": round(time.monotonic() - began, 1), "used": fitted.kind, "accuracy": round(right, 4)}
    # Not `ru_maxrss`, which begins with what the process had before exec: that of the parent with all its sets.
    status = Path("/proc/self/status").read_text("ascii")
    found["peak_gib"] = round(int(status.split("VmHWM:")[1].split()[0]) / 1024**2, 2)
    print(json.dumps(found))


def _config(data: DataSet, kind: str) -> LabelModelConfig:
    return LabelModelConfig(kind=kind, classes=tuple(f"class {place}" for place in range(data.classes)))


def _vectors(split: Split) -> Floats:
    return embedded(split.texts).astype(np.float64)


MEASURES = {"label": _label, "end": _end, "gold": _gold, "selected": _selected, "scale": _scale}

if __name__ == "__main__":
    main()
