"""What weak labels taught is kept between runs: used where all that decides it is the same, with equal bits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weak_labels.small_lake import CLASSES, SmallLake, build, prepared
from warehouse import Lake
from warehouse.files.array_cache import read_arrays, write_arrays
from weak_labels.analysis.evaluate import evaluate, evaluate_rivals
from weak_labels.classifiers import checkpoints
from weak_labels.classifiers.heads import Heads
from weak_labels.classifiers.linear import EndModel, EndModelConfig, Floats
from weak_labels.end_model import training_data
from weak_labels.end_model.stage import end_model
from weak_labels.end_model.training_data import read_training_data
from weak_labels.label_models import LabelModelConfig, label_model

KINDS: dict[str, dict[str, Any]] = {
    "linear": {},
    "auto": {"kind": "auto", "calibrate": True},
    "words": {"self_training": True},
    "sets": {"multi_label": True},
}


def labelled(small: SmallLake) -> None:
    label_model(small.lake, small.label_config)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallLake]:
    with prepared(labelled, tmp_path) as small:
        yield small


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many weak labels each model learned from that was not kept."""
    done: list[int] = []
    fit_weak = EndModel.fit_weak

    def noted(vectors: Any, probs: Floats, weights: Floats, hidden: Any = None) -> EndModel | None:
        if weights.any():
            done.append(len(weights))
        return fit_weak(vectors, probs, weights, hidden)

    monkeypatch.setattr(EndModel, "fit_weak", noted)
    return done


def keeping(small: SmallLake, **change: Any) -> EndModelConfig:
    return replace(small.end_config, kept=small.folder / "kept", **change)


def said(small: SmallLake, config: EndModelConfig, *, gold: int) -> tuple[bytes, str]:
    """The bits of what the end model says of all items after so many gold labels, and how it came about."""
    with small.lake.read() as reader:
        data = read_training_data(reader, config)
        heads = data.heads(config)
    rows = np.arange(gold)
    truth = np.array([small.truth[data.item_ids[row]] for row in rows], np.int64)
    learned = heads.learned(rows, np.eye(3, dtype=np.bool_)[truth] if config.multi_label else truth)
    return learned.model.predict_proba(heads.features).tobytes(), str(learned.detail)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_bits_with_and_without_it(kind: str, small: SmallLake, fits: list[int]) -> None:
    change = KINDS[kind]
    if kind == "sets":
        sets = LabelModelConfig(kind="anchored", classes=CLASSES, multi_label=True)
        assert label_model(small.lake, sets).committed
    without = [said(small, replace(small.end_config, **change), gold=gold) for gold in (0, 80)]
    anew = len(fits)
    kept = [said(small, keeping(small, **change), gold=gold) for gold in (0, 80)]
    assert len(fits) == anew + anew // 2
    assert kept == without


def test_answers_alone_teach_weak_labels_to_no_model_again(small: SmallLake, fits: list[int]) -> None:
    config = keeping(small)
    assert end_model(small.lake, config).committed
    assert len(fits) == 2, "one for each view"
    small.answer({item_id: small.truth[item_id] for item_id in small.train_ids()[:6]})
    assert end_model(small.lake, config).committed
    assert evaluate(small.lake, small.evaluate_config(), config).committed
    assert evaluate_rivals(small.lake, small.evaluate_config(), config).committed
    assert len(fits) == 2


def test_whatever_decides_it_makes_it_anew(small: SmallLake, fits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def anew(**change: Any) -> bool:
        before, config = len(fits), keeping(small, **change)
        found = said(small, config, gold=6)
        learned = len(fits) - before
        assert found == said(small, replace(config, kept=None), gold=6)
        return bool(learned)

    assert anew()
    assert not anew()
    assert anew(kind="mlp")
    assert anew(kind="mlp", seed=1)
    assert anew(balanced=True)
    assert not anew(balanced=True)
    assert anew()
    small.put_vectors(["train-003"], -np.eye(8)[:1])  # of the same text, as when somebody mends the table by hand
    assert anew()
    small.put_items(["train-003"], split="valid")
    assert anew()
    small.put_items(["train-004"], split="train", texts=["another text"])  # its vector is to come
    assert anew()
    small.put_votes({"lf_0": dict.fromkeys(small.train_ids()[10:20], 2)})
    assert label_model(small.lake, small.label_config).committed
    assert anew()
    assert not anew()
    monkeypatch.setattr(training_data, "VERSION", 999)
    assert anew()
    monkeypatch.setattr(checkpoints, "version", lambda name: f"another {name}")  # pyright: ignore[reportUnknownLambdaType]
    assert anew()
    assert not anew()


def test_who_goes_without_weak_labels_is_given_none(small: SmallLake, fits: list[int]) -> None:
    config = keeping(small)
    said(small, config, gold=6)
    with small.lake.read() as reader:
        alone = read_training_data(reader, config).heads(config, weak=False)
    assert isinstance(alone, Heads)
    assert alone.weak == {"linear": ()}
    said(small, config, gold=6)
    assert len(fits) == 2


@pytest.mark.parametrize("harm", ["cut", "flipped", "of nothing", "gone", "killed at the write"])
def test_a_file_that_cannot_be_believed_costs_time_only(
    harm: str, small: SmallLake, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = keeping(small)
    without = said(small, small.end_config, gold=6)
    said(small, config, gold=6)
    file, of_second_view = sorted((small.folder / "kept").iterdir())
    assert (file.name, of_second_view.name) == ("linear.npz", "view-2.npz")
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif harm == "flipped":
        content[content.index(b"NUMPY") + 200] ^= 1
        file.write_bytes(content)
    elif harm == "of nothing":
        write_arrays(file, {"made_from": read_arrays(file)["made_from"]})
    elif harm == "gone":
        file.unlink()
    else:
        file.unlink()
        (file.parent / f".{file.name}.123.part").write_bytes(content[:100])
    fits.clear()
    assert [said(small, config, gold=6) for _ in range(2)] == [without, without]
    assert len(fits) == 1


def test_a_folder_that_cannot_be_written_costs_time_only(lake: Lake, tmp_path: Path) -> None:
    small = build(lake, tmp_path, train=30, test=10)
    labelled(small)
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert end_model(small.lake, keeping(small)).committed
