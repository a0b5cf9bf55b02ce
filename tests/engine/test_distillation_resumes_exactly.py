"""Distillation learns; a run that was killed goes on from its checkpoint bit for bit, and from no other run's."""

import hashlib
import math
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import EngineError, ModelFileError, OptionError
from engine.model.dense import pack
from engine.model.device import computes_bf16
from engine.model.routed import RoutedEncoder
from engine.training import distill
from engine.training.corpus import Corpus
from engine.training.distill import CHECKPOINT, Distillation, checkpoint_metadata, distillation_loss
from engine.training.schedule import Progress, Recipe
from tests.engine.tiny import tiny_corpus, tiny_parent, tiny_routed, tiny_routed_config

STEPS, SAVED, KILLED = 20, 7, 12
"""Between the checkpoint and the kill are steps that are done again."""


def recipe(**changes: Any) -> Recipe:
    parts: dict[str, Any] = {"tokens": 256, "rate": 3e-3, "warmup": 5, "state_steps": 0, "bf16": False, **changes}
    return Recipe(steps=parts.pop("steps", STEPS), **parts)


def texts() -> Corpus:
    return tiny_corpus(150, seed=1)  # an epoch has about six batches


def start(folder: Path, how: Recipe | None = None, **parts: Any) -> Distillation:
    model: RoutedEncoder = parts.pop("model", None) or tiny_routed()
    arguments: dict[str, Any] = {"parent": tiny_parent(), "corpus": texts(), "folder": folder, **parts}
    return Distillation(model.requires_grad_(True), recipe=how or recipe(), **arguments)


def nothing(_: Progress) -> None:
    pass


def digest(run: Distillation) -> str:
    """Over every bit of the model."""
    state = {name: value.numpy().tobytes() for name, value in run.model.state_dict().items()}
    return hashlib.sha256(b"".join(name.encode() + state[name] for name in sorted(state))).hexdigest()


def vectors(folder: Path) -> Path:
    """Where the run kept the parent's vectors."""
    [path] = folder.glob("parent-*.npy")
    return path


def finished(folder: Path, how: Recipe | None = None) -> str:
    run = start(folder, how)
    run.run(report=nothing, every=1000)
    assert run.step == STEPS
    return digest(run)


@pytest.fixture(autouse=True)
def as_in_the_killed_process() -> None:
    """Sums over another number of threads are other bits, and tests before may have changed the number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An undisturbed run: the model's digest and the folder."""
    folder = tmp_path_factory.mktemp("whole")
    return finished(folder), folder


def run_and_kill(folder: str, state_steps: int, bf16: bool) -> None:
    """Called in a process of its own: nothing after the kill runs, no handler and no `finally`."""
    torch.set_num_threads(1)
    run = start(Path(folder), recipe(state_steps=state_steps, bf16=bf16))

    def report(progress: Progress) -> None:
        if progress.step == SAVED:
            run.save()
        if progress.step == KILLED:
            signal.raise_signal(signal.SIGKILL)

    run.run(report=report, every=1)


@pytest.mark.parametrize(("state_steps", "bf16"), [(0, False), (10, True)])
def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(tmp_path: Path, state_steps: int, bf16: bool) -> None:
    how = recipe(state_steps=state_steps, bf16=bf16)
    expected = finished(tmp_path / "undisturbed", how)
    code = (
        "from tests.engine.test_distillation_resumes_exactly import run_and_kill; "
        f"run_and_kill({str(tmp_path / 'killed')!r}, {state_steps}, {bf16})"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (tmp_path / "killed" / f"{CHECKPOINT}.part").write_bytes(b"half a checkpoint")
    run = start(tmp_path / "killed", how)
    assert run.step == SAVED
    run.run(report=nothing)
    assert digest(run) == expected


def test_the_last_checkpoint_is_the_end_of_the_run(whole: tuple[str, Path], tmp_path: Path) -> None:
    expected, folder = whole[0], copied(whole[1], tmp_path)
    assert checkpoint_metadata(folder / CHECKPOINT)["step"] == str(STEPS)
    seen: list[Progress] = []
    run = start(folder)
    run.run(report=seen.append)
    assert (run.step, seen, digest(run)) == (STEPS, [], expected)


def test_checkpoints_and_reports_change_no_bit(whole: tuple[str, Path], tmp_path: Path) -> None:
    run = start(tmp_path)
    run.run(report=nothing, every=1, checkpoint_s=0)
    assert digest(run) == whole[0]


def test_another_seed_gives_another_model(whole: tuple[str, Path], tmp_path: Path) -> None:
    assert finished(tmp_path, recipe(seed=1)) != whole[0]


@pytest.mark.parametrize(("expert_mode", "bf16"), [("token", True), ("sequence", False)])
def test_training_brings_the_vectors_closer_to_the_parents(tmp_path: Path, expert_mode: str, bf16: bool) -> None:
    model = tiny_routed(tiny_routed_config(expert_mode=expert_mode))
    parent, corpus = tiny_parent(), tiny_corpus(400, seed=1)
    run = start(tmp_path, recipe(steps=60, bf16=bf16), model=model, parent=parent, corpus=corpus)
    unseen = tiny_corpus(100, seed=2)
    batch = pack(sorted((unseen.text(number).tolist() for number in range(100)), key=len))

    def cosine() -> float:
        with torch.no_grad():
            return float((model.eval()(batch, 1) * parent(batch)).sum(dim=1).mean())

    before, seen = cosine(), list[Progress]()
    run.run(report=seen.append, every=30)
    assert [progress.step for progress in seen] == [10, 30, 60]
    assert seen[-1].loss < 0.7 * seen[0].loss
    assert seen[-1].cosine > seen[0].cosine
    assert 1 - cosine() < 0.75 * (1 - before)
    assert seen[-1].texts == run.texts > 400
    assert not model.training
    assert not any(model.layer(place).attention.masked for place in range(3))


def test_the_loss_on_token_states_brings_states_closer(tmp_path: Path) -> None:
    parent = tiny_parent()
    corpus = tiny_corpus(100, seed=2)
    batch = pack(sorted((corpus.text(number).tolist() for number in range(100)), key=len))
    errors: list[float] = []
    for state_steps, folder in ((0, "without"), (60, "with")):
        model = tiny_routed()
        how = recipe(steps=60, state_steps=state_steps, state_weight=3.0)
        start(tmp_path / folder, how, model=model, corpus=tiny_corpus(400, seed=1)).run(report=nothing)
        with torch.no_grad():
            errors.append(float((model.states(batch, 1) - parent.states(batch)).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_the_loss_is_none_for_the_parents_own_vectors() -> None:
    generator = torch.Generator().manual_seed(0)
    target_BD = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=1)
    assert distillation_loss(target_BD, target_BD, 5.0) == pytest.approx(0, abs=1e-6)
    # A rotation of all keeps every similarity, so only the distance is left.
    assert distillation_loss(-target_BD, target_BD, 5.0) == pytest.approx(2, abs=1e-5)
    assert distillation_loss(target_BD.flip(0), target_BD, 5.0) > distillation_loss(target_BD.flip(0), target_BD, 0.0)


def changed_corpus() -> Corpus:
    """As many texts and tokens, one token is another."""
    corpus = texts()
    ids = corpus.ids.copy()
    ids[0] = (ids[0] + 1) % 100
    return Corpus(ids, corpus.offsets)


OTHERS: dict[str, dict[str, Any]] = {
    "recipe": {"how": recipe(rate=1e-3)},
    "steps": {"how": recipe(steps=STEPS + 1)},
    "seed": {"how": recipe(seed=5)},
    "fewer texts": {"corpus": tiny_corpus(149, seed=1)},
    "one token of the texts": {"corpus": changed_corpus()},
    "shape": {"model": tiny_routed_config(quorum=2)},
    "parent": {"parent": tiny_parent(seed=3)},
    "start": {"start": "another file"},
}


@pytest.fixture(scope="module")
def checkpointed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint and the parent's vectors of a run that was interrupted."""
    folder = tmp_path_factory.mktemp("run")
    run = start(folder)

    def report(progress: Progress) -> None:
        if progress.step == SAVED:
            run.save()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run(report=report, every=1)
    return folder


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_a_run_goes_on_though_the_conversion_gave_other_last_bits(checkpointed: Path, tmp_path: Path) -> None:
    # As it does with another number of threads, or on another machine.
    converted = tiny_routed()
    with torch.no_grad():
        converted.layer(0).feed_forward.up.mul_(1 + 1e-7)
        converted.layer(0).head_router.weight.add_(1e-7)
    run = start(copied(checkpointed, tmp_path), model=converted)
    run.run(report=nothing, every=1000)
    assert digest(run) == finished(tmp_path / "undisturbed")


@pytest.mark.parametrize("other", OTHERS)
def test_another_run_in_the_same_folder_is_refused(checkpointed: Path, tmp_path: Path, other: str) -> None:
    parts = dict(OTHERS[other])
    if other == "shape":
        parts["model"] = tiny_routed(parts["model"])
    folder = copied(checkpointed, tmp_path)
    before = (folder / CHECKPOINT).read_bytes()
    with pytest.raises(OptionError, match=r"of another run.*another folder"):
        start(folder, **parts)
    assert (folder / CHECKPOINT).read_bytes() == before
    assert start(folder).step == SAVED  # nothing was spoilt for the run that it belongs to


def test_what_differs_from_the_run_in_the_folder_is_named(checkpointed: Path) -> None:
    for other, words in (
        ("steps", f"steps {STEPS} there and {STEPS + 1} here"),
        ("fewer texts", "other texts"),
        ("parent", "another parent"),
        ("start", "another start"),
    ):
        with pytest.raises(OptionError, match=rf"\({words}\)"):
            start(checkpointed, **OTHERS[other])


def test_a_checkpoint_with_one_other_bit_is_refused(checkpointed: Path, tmp_path: Path) -> None:
    path = copied(checkpointed, tmp_path) / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"{CHECKPOINT} is damaged"):
        start(path.parent)


@pytest.mark.parametrize("place", [0.0, 1e-4, 0.3, 0.7, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpointed: Path, tmp_path: Path, place: float) -> None:
    folder = copied(checkpointed, tmp_path)
    content = (folder / CHECKPOINT).read_bytes()
    (folder / CHECKPOINT).write_bytes(content[: int(place * len(content))])
    with pytest.raises(ModelFileError, match=CHECKPOINT):
        start(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0[]", b"\x02\0\0\0\0\0\0\0{}"])
def test_a_file_that_is_no_checkpoint_is_refused(checkpointed: Path, tmp_path: Path, content: bytes) -> None:
    folder = copied(checkpointed, tmp_path)
    (folder / CHECKPOINT).write_bytes(content)
    with pytest.raises(EngineError, match=CHECKPOINT):
        start(folder)


@pytest.mark.parametrize("damage", ["zeros", "half a row", "not a number", "cut off"])
def test_a_torn_vector_of_the_parent_is_computed_again(whole: tuple[str, Path], tmp_path: Path, damage: str) -> None:
    expected, kept = whole[0], np.load(vectors(whole[1]))
    torn = kept.copy()
    torn[::7, 3 if damage == "half a row" else 0 :] = np.nan if damage == "not a number" else 0
    (tmp_path / "torn").mkdir()
    path = tmp_path / "torn" / vectors(whole[1]).name
    np.save(path, torn)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-3000])
    assert finished(tmp_path / "torn") == expected
    assert np.array_equal(np.load(path), kept)


def test_a_vector_of_the_parent_that_is_kept_is_never_replaced(whole: tuple[str, Path], tmp_path: Path) -> None:
    # A text's batches differ from epoch to epoch, and so may the last bits of its vector. Were a kept one replaced, a
    # run that goes on from before would see other bits than the first time.
    path = tmp_path / vectors(whole[1]).name
    kept = np.load(vectors(whole[1]))
    marked = kept.copy()
    marked[0::2] *= -1
    marked[1::2] = 0
    np.save(path, marked)
    finished(tmp_path)
    after = np.load(path)
    assert np.array_equal(after[0::2], marked[0::2])
    assert np.array_equal(after[1::2], kept[1::2])


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_goes_on_in_the_precision_it_was_begun_in_on_a_machine_that_would_choose_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    monkeypatch.setattr(distill, "computes_bf16", lambda device: begun)

    def stop(progress: Progress) -> None:
        if progress.step == KILLED:
            raise KeyboardInterrupt

    first = start(tmp_path / "moved", recipe(bf16=None))
    assert first.recipe.bf16 is begun
    with pytest.raises(KeyboardInterrupt):
        first.run(report=stop, every=1, checkpoint_s=0)
    monkeypatch.setattr(distill, "computes_bf16", lambda device: not begun)
    assert finished(tmp_path / "moved", recipe(bf16=None)) == finished(tmp_path / "stayed", recipe(bf16=begun))


def test_bfloat16_is_chosen_by_what_the_processor_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, expected in (({"avx512_bf16": True}, True), ({"avx512_f": True}, False), ({"bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert computes_bf16("cpu") is expected


@pytest.mark.parametrize(
    "other", [{"parent": tiny_parent(seed=3)}, {"corpus": changed_corpus()}, {"how": recipe(bf16=True)}]
)
def test_vectors_that_another_run_left_before_its_first_checkpoint_are_not_taken(
    whole: tuple[str, Path], tmp_path: Path, other: dict[str, Any]
) -> None:
    start(tmp_path, **other).run(report=nothing)
    (tmp_path / CHECKPOINT).unlink()
    assert finished(tmp_path) == whole[0]


def test_a_run_of_an_earlier_version_goes_on(whole: tuple[str, Path], checkpointed: Path, tmp_path: Path) -> None:
    folder = copied(checkpointed, tmp_path)
    vectors(folder).rename(folder / "parent.npy")
    assert finished(folder) == whole[0]


def test_vectors_of_another_shape_are_refused(whole: tuple[str, Path], tmp_path: Path) -> None:
    np.save(tmp_path / vectors(whole[1]).name, np.zeros((7, 32), np.float16))
    with pytest.raises(OptionError, match=r"npy holds vectors of \(7, 32\), expected \(150, 32\)"):
        start(tmp_path).run(report=nothing)


@pytest.mark.parametrize("cut", [0, 5, 40])
def test_vectors_without_a_whole_header_are_refused(checkpointed: Path, tmp_path: Path, cut: int) -> None:
    folder = copied(checkpointed, tmp_path)
    path = vectors(folder)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(EngineError, match=path.name):
        start(folder).run(report=nothing)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("lengths", [range(2, 10), [5] * 8, [5]], ids=["no two alike", "eight alike", "one"])
def test_too_few_texts_are_refused(tmp_path: Path, lengths: list[int]) -> None:
    sizes = np.array(lengths)
    corpus = Corpus(np.ones(sizes.sum(), np.int32), np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
    with pytest.raises(OptionError, match="texts"):
        start(tmp_path, corpus=corpus).run(report=nothing, every=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "steps 0"),
        ({"tokens": 10}, "tokens 10"),
        ({"rate": 0.0}, "rate 0.0"),
        ({"rate": 1.0}, "rate 1.0"),
        ({"rate": math.nan}, "rate nan"),
        ({"budgets": (0.5, 0.4)}, "must add up to 1"),
        ({"budgets": (1.5, -0.5)}, "must add up to 1"),
        ({"budgets": ()}, "must add up to 1"),
        ({"budgets": (math.nan, 1.0)}, "must add up to 1"),
        ({"seed": -1}, "seed"),
    ],
    ids=str,
)
def test_a_recipe_out_of_range_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        recipe(**change)


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    how = Recipe(steps=100, rate=1e-3, warmup=10, decay_frac=0.5)
    rates = [how.rate_at(step) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-4 * (step + 1) for step in range(10)])
    assert rates[10:51] == pytest.approx([1e-3] * 41)
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert 0 < rates[-1] < 3e-5
    assert replace(how, warmup=0).rate_at(0) == 1e-3
    assert replace(how, decay_frac=0.0).rate_at(99) == 1e-3


@contextmanager
def files_of_at_most(size: int) -> Generator[None]:
    """What a write finds on a disk without room: it fails in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_without_room_is_told_and_the_last_checkpoint_stays(checkpointed: Path, tmp_path: Path) -> None:
    with (
        files_of_at_most(5000),
        pytest.raises(OptionError, match=r"vectors cannot be kept in .*: .*Give another folder"),
    ):
        start(tmp_path / "new").run(report=nothing)
    assert not list((tmp_path / "new").iterdir())
    folder = copied(checkpointed, tmp_path)
    run, before = start(folder), (folder / CHECKPOINT).read_bytes()
    with files_of_at_most(20_000), pytest.raises(OptionError, match=r"checkpoint cannot be written to .*make room"):
        run.save()
    assert (folder / CHECKPOINT).read_bytes() == before
    assert start(folder).step == SAVED


def test_what_measures_progress_is_written_by_people(tmp_path: Path) -> None:
    run = start(tmp_path, written=40)
    held, members = run._held, run._members  # pyright: ignore[reportPrivateUsage]
    assert len(held) == 15
    assert held.max() < 40
    assert sorted([*held, *members]) == list(range(150))
