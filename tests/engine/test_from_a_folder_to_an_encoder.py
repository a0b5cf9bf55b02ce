"""From one's own dense model in a Hugging Face folder to a routed encoder in a file: read, convert, distill, encode."""

import json
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.errors import EngineError, ModelFileError, OptionError
from engine.load import load_encoder
from engine.model.config import EncoderConfig, ShallowConfig
from engine.model.dense import DenseEncoder, pack
from engine.model.tokenizer import TextTokenizer
from engine.training.convert import RESERVE
from engine.training.jobs import Shape, convert_file, distill_file
from engine.training.schedule import Progress, Recipe
from engine.weights.hugging_face import read_folder
from engine.weights.in_memory import dense_encoder
from engine.weights.quantized_file import quantize_encoder
from engine.weights.routed_file import write_shallow
from engine.weights.shipped import DenseFiles
from flows.cli.main import run_command
from tests.engine.stored import routed_of, stored
from tests.engine.texts import make_texts
from tests.engine.tiny import BASE, tiny_tensors, tiny_tokenizer, write_folder

SHAPE = Shape(layers=(0, 2), shared_heads=1, shared_neurons=16, experts=4, heads=1.5)
"""Two of three layers, so that budgets from 0.2 on can be met."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("models") / "mine")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join(make_texts(3000, longest=20, seed=1)), "utf-8")
    return path


def test_a_folder_is_read(folder: Path) -> None:
    files = read_folder(folder)
    assert files.config == BASE
    assert files.tokenizer == tiny_tokenizer()
    assert all(torch.equal(files.tensors[name], value) for name, value in tiny_tensors().items())


def test_prefixed_and_halved_tensors_are_read(tmp_path: Path) -> None:
    stored = {f"bert.{name}": value.half() for name, value in tiny_tensors().items()}
    files = read_folder(write_folder(tmp_path, stored))
    assert files.tensors.keys() == tiny_tensors().keys()
    for name, value in tiny_tensors().items():
        assert files.tensors[name].dtype == torch.float32
        assert torch.equal(files.tensors[name], value.half().float())


def test_a_head_on_top_of_the_encoder_is_left_out(tmp_path: Path) -> None:
    stored = {f"bert.{name}": value for name, value in tiny_tensors().items()}
    stored |= {"cls.predictions.bias": torch.zeros(100), "cls.predictions.transform.dense.weight": torch.zeros(32, 32)}
    assert read_folder(write_folder(tmp_path, stored)).tensors.keys() == tiny_tensors().keys()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_missing_file_is_named_with_what_is_needed(tmp_path: Path, name: str, linked: bool) -> None:
    (write_folder(tmp_path) / name).unlink()
    if linked:  # it would be read for ever
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(
        ModelFileError, match=rf"has no readable {name}: .*Needed are config\.json, tokenizer\.json and.*AutoTokenizer"
    ):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"model_type": "mpnet"},
            "'mpnet', this encoder computes bert, camembert, distil",
        ),
        ({"hidden_act": "gelu_new"}, "'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"hidden_size": 64}, "expected floats"),
        ({"num_hidden_layers": 4}, "missing tensors"),
        ({"num_hidden_layers": 2}, "unknown tensors"),
    ],
    ids=str,
)
def test_a_model_that_is_not_computed_here_is_refused(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelFileError, match=words):
        read_folder(write_folder(tmp_path, **values))


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text('{"word_embedding_dimension": 32, "pooling_mode_max_tokens": true}', "utf-8")
    with pytest.raises(ModelFileError, match=r"mean of tokens or \[CLS\] only"):
        read_folder(tmp_path)
    pooling.write_text('{"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}', "utf-8")
    assert read_folder(tmp_path).config == BASE


def test_a_pooling_as_later_sentence_transformers_write_it_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    pooling.write_text('{"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": true}', "utf-8")
    assert read_folder(tmp_path).config == BASE
    pooling.write_text('{"embedding_dimension": 32, "pooling_mode": "cls"}', "utf-8")
    assert read_folder(tmp_path).config == replace(BASE, pooling="first")
    for mode in ('"lasttoken"', '["mean", "max"]', "null"):
        pooling.write_text(f'{{"embedding_dimension": 32, "pooling_mode": {mode}}}', "utf-8")
        with pytest.raises(ModelFileError, match=r"mean of tokens or \[CLS\] only"):
            read_folder(tmp_path)
    pooling.write_text('{"embedding_dimension": 64, "pooling_mode": "mean"}', "utf-8")
    with pytest.raises(ModelFileError, match=r"for width 64, config\.json says 32"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '[{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]',
            "Dense",
        ),
        ("{", "cannot be used"),
        ("[1]", "cannot be used"),
    ],
)
def test_a_further_step_behind_the_model_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (write_folder(tmp_path) / "modules.json").write_text(content, "utf-8")
    with pytest.raises(ModelFileError, match=rf"modules\.json .*{words}"):
        read_folder(tmp_path)
    steps = [{"type": f"sentence_transformers.models.{name}"} for name in ("Transformer", "Normalize")]
    (tmp_path / "modules.json").write_text(json.dumps(steps), "utf-8")
    assert read_folder(tmp_path).config == BASE


def test_a_converted_model_is_written_and_encodes(folder: Path, texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "routed.safetensors"
    config = convert_file(folder, [texts], output, SHAPE, seed=0)
    assert config.kept == (0, 2)
    file = stored(output)
    assert file.model.config == config
    assert file.notes["trained"] == "no"
    again = tmp_path / "again.safetensors"
    convert_file(folder, [texts], again, SHAPE, seed=0)
    assert again.read_bytes() == output.read_bytes()

    words = ["oil wheat", "", *make_texts(30, longest=15, seed=2)]
    encoder = load_encoder(str(output), active=1.0, max_tokens=20, threads=1)
    kept = {name.replace("r.2.", "r.1."): value for name, value in tiny_tensors().items() if "layer.1." not in name}
    parent = dense_encoder(replace(BASE, layers=2), kept)
    tokenizer = TextTokenizer(tiny_tokenizer(), vocab=100, max_tokens=20)
    with torch.inference_mode():
        expected = [parent(pack([tokens.ids]))[0].numpy() for tokens in tokenizer.encode(words)]
    assert (encoder.encode(words) * np.array(expected)).sum(axis=1).min() > 0.995


def test_what_convert_says_next_trains_what_it_made(
    folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --start and --from it would be the file of another model, trained from its beginning."""
    monkeypatch.chdir(tmp_path)
    shape = ["--layers", "0,2", "--shared-heads", "1", "--shared-neurons", "16", "--experts", "4", "--heads", "1.5"]
    convert = ["engine", "convert", "--from", str(folder), "--text", str(texts), "--output", "own words.safetensors"]
    assert run_command([*convert, *shape]) == 0
    program, *following = shlex.split(capsys.readouterr().out.partition("Next: ")[2])
    assert program == "siftline"
    assert run_command([*following, "--steps", "1"]) == 0
    trained = stored(tmp_path / "trained-own words.safetensors")
    assert trained.model.config == stored(tmp_path / "own words.safetensors").model.config
    assert trained.notes["trained"].startswith("1 steps")


def distill(dense: Path, text_file: Path, work: Path, **options: Any) -> tuple[Path, list[Progress]]:
    seen: list[Progress] = []
    parts: dict[str, Any] = {
        "source": dense,
        "texts": [text_file],
        "output": work / "out" / "routed.safetensors",
        "folder": work / "work",
        "recipe": Recipe(steps=40, tokens=512, rate=3e-3, warmup=5, state_steps=10, bf16=False),
        "shape": SHAPE,
        "report": seen.append,
        "every": 10,
        **options,
    }
    distill_file(**parts)
    return parts["output"], seen


@pytest.fixture(scope="module")
def distilled(folder: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Progress]]:
    return distill(folder, texts, tmp_path_factory.mktemp("distilled"))


def test_a_distilled_model_is_closer_to_its_parent(
    distilled: tuple[Path, list[Progress]], folder: Path, texts: Path, tmp_path: Path
) -> None:
    output, seen = distilled
    assert [progress.step for progress in seen] == [10, 20, 30, 40]
    assert seen[-1].loss < seen[0].loss
    file = stored(output)
    assert file.notes["trained"] == f"40 steps, {seen[-1].texts} texts"
    convert_file(folder, [texts], tmp_path / "untrained.safetensors", SHAPE, seed=0)
    files = read_folder(folder)
    parent = dense_encoder(files.config, files.tensors)
    tokenizer = TextTokenizer(files.tokenizer, vocab=100, max_tokens=20)
    words = make_texts(100, longest=15, seed=7)
    with torch.inference_mode():
        expected = np.array([parent(pack([tokens.ids]))[0].numpy() for tokens in tokenizer.encode(words)])
    cosines = [
        float((load_encoder(str(path), max_tokens=20, threads=1).encode(words) * expected).sum(axis=1).mean())
        for path in (tmp_path / "untrained.safetensors", output)
    ]
    assert 1 - cosines[1] < 0.9 * (1 - cosines[0])


def test_a_parent_of_few_positions_is_distilled(texts: Path, tmp_path: Path) -> None:
    sizes = replace(BASE, positions=12)
    few = write_folder(tmp_path / "few", base=sizes)
    output, seen = distill(few, texts, tmp_path, recipe=Recipe(steps=4, tokens=512, state_steps=2, bf16=False))
    assert [progress.step for progress in seen] == [4]
    assert stored(output).model.config.base.positions == sizes.positions


def active_frac(path: Path, active: float) -> float:
    encoder = load_encoder(str(path), active=active, max_tokens=30, threads=1)
    return float(encoder.encode(make_texts(300, longest=20, seed=8), trace=True).active_frac.mean())


def test_a_distilled_model_works_at_its_budgets(distilled: tuple[Path, list[Progress]]) -> None:
    means = [active_frac(distilled[0], active) for active in (0.2, 0.3, 0.5, 1.0)]
    assert means[:2] == pytest.approx([0.2, 0.3], abs=0.02)
    assert means == sorted(means)


def test_a_distilled_model_keeps_a_reserve(
    distilled: tuple[Path, list[Progress]], folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much a model uses on other text depends on its training; what the reserve takes off does not."""
    monkeypatch.setattr("engine.training.jobs.RESERVE", 0.0)
    unreserved, _ = distill(folder, texts, tmp_path)
    config = routed_of(distilled[0]).config
    reserved = config.active_share(config.head_shares[1] * (1 - RESERVE), config.expert_shares[1] * (1 - RESERVE))
    left = active_frac(unreserved, 0.3) - active_frac(distilled[0], 0.3)
    assert left == pytest.approx(0.3 - reserved, abs=0.002)


def test_an_interrupted_run_goes_on_and_writes_the_same_file(
    distilled: tuple[Path, list[Progress]], folder: Path, texts: Path, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(folder, texts, tmp_path, report=interrupt)
    assert not (tmp_path / "out").exists()
    output, _ = distill(folder, texts, tmp_path)
    assert output.read_bytes() == distilled[0].read_bytes()


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_one_works(
    distilled: tuple[Path, list[Progress]], folder: Path, texts: Path, tmp_path: Path
) -> None:
    def report(_: Progress) -> None:
        with pytest.raises(OptionError, match=r"at work in .*work, and two would overwrite"):
            distill(folder, texts, tmp_path)

    output, _ = distill(folder, texts, tmp_path, report=report)
    assert output.read_bytes() == distilled[0].read_bytes()
    distill(folder, texts, tmp_path)  # now there is none


def test_a_place_that_cannot_be_written_is_told_before_the_work(folder: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "x.safetensors").mkdir()
    for output in (tmp_path / "file" / "deep" / "x.safetensors", tmp_path / "x.safetensors"):
        for work in (
            lambda place: distill(Path("none"), texts, tmp_path, output=place),
            lambda place: convert_file(Path("none"), [texts], place, SHAPE, seed=0),
            lambda place: quantize_encoder("none.safetensors", 8, place),
        ):
            with pytest.raises(OptionError, match="cannot be written to"):
                work(output)
    with pytest.raises(OptionError, match="cannot be used"):
        distill(folder, texts, tmp_path, folder=tmp_path / "file" / "work")


def test_training_goes_on_from_a_routed_file(
    distilled: tuple[Path, list[Progress]], folder: Path, texts: Path, tmp_path: Path
) -> None:
    output, seen = distill(folder, texts, tmp_path, start=distilled[0], shape=None)
    trained = [f"40 steps, {progress.texts} texts" for progress in (distilled[1][-1], seen[-1])]
    assert stored(output).notes["trained"] == ", then ".join(trained)
    assert seen[0].loss < distilled[1][0].loss


def shallow_file(path: Path, base: EncoderConfig = BASE) -> DenseEncoder:
    """The first and the last layer of the tiny parent."""
    kept = {n.replace("r.2.", "r.1."): v for n, v in tiny_tensors(base).items() if "layer.1." not in n}
    config = ShallowConfig(**{**asdict(base), "layers": 2}, parent_layers=base.layers)
    model = dense_encoder(config, kept)
    write_shallow(path, model, tiny_tokenizer(base), {"trained": "9 steps, 80 texts"})
    return model


def test_a_shallow_encoder_is_cut_into_a_routed_one(folder: Path, texts: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    shallow_file(small)
    recipe = Recipe(steps=1, tokens=512, rate=1e-9, bf16=False)
    output, seen = distill(folder, texts, tmp_path, start=small, recipe=recipe)
    file = stored(output)
    assert file.notes["trained"] == f"9 steps, 80 texts, then 1 steps, {seen[-1].texts} texts"
    assert (routed_of(output).config.base, routed_of(output).config.kept) == (BASE, (0, 2))
    words = make_texts(50, longest=15, seed=7)
    whole, before = (
        load_encoder(str(path), active=active, max_tokens=20, threads=1).encode(words)
        for path, active in ((output, 1.0), (small, None))
    )
    assert (whole * before).sum(axis=1).min() > 0.9999


def test_a_shallow_start_must_have_the_layers_that_are_asked_for(folder: Path, texts: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.safetensors"
    shallow_file(small)
    with pytest.raises(OptionError, match=r"has 2 layers\. Say with --layers which of the parent's they are"):
        distill(folder, texts, tmp_path, start=small, shape=replace(SHAPE, layers=(0, 1, 2), main_budget=0.5))
    shallow_file(small, replace(BASE, layers=4))
    with pytest.raises(OptionError, match="made from another parent"):
        distill(folder, texts, tmp_path, start=small)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"texts": [Path("none.txt")]}, r"none\.txt cannot be read"),
        ({"source": Path("none")}, r"has no readable config\.json"),
        ({"start": Path("none.safetensors")}, r"none\.safetensors cannot be read"),
        ({"shape": replace(SHAPE, layers=(0, 9))}, r"\[0, 9\]"),
        ({"recipe": Recipe(steps=1, budgets=(0.5, 0.5))}, "frequencies for 2 budgets, the encoder has 4"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(
    folder: Path, texts: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        distill(folder, texts, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_a_start_from_another_parent_is_refused(
    distilled: tuple[Path, list[Progress]], folder: Path, texts: Path, tmp_path: Path
) -> None:
    larger = {**tiny_tensors(), "embeddings.position_embeddings.weight": torch.zeros(90, 32)}
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "config.json").write_text(
        (folder / "config.json")
        .read_text("utf-8")
        .replace('"max_position_embeddings": 80', '"max_position_embeddings": 90'),
        "utf-8",
    )
    save_file(larger, other / "model.safetensors")
    with pytest.raises(OptionError, match="made from another parent"):
        distill(other, texts, tmp_path, start=distilled[0], shape=None)


@pytest.mark.parametrize(
    ("of", "layers", "kept"),
    [
        (6, "all", (0, 1, 2, 3, 4, 5)),
        (6, "third", (0, 5)),
        (12, "third", (0, 4, 7, 11)),
        (3, "third", (0, 2)),
        (24, "third", (0, 3, 7, 10, 13, 16, 20, 23)),
    ],
)
def test_default_shapes_meet_the_budget_at_any_depth(
    of: int, layers: Literal["all", "third"], kept: tuple[int, ...]
) -> None:
    from engine.training.jobs import dense_files

    files = dense_files(None)
    config = Shape(layers=layers).plan(replace(files, config=replace(files.config, layers=of)))
    assert config.kept == kept
    assert config.active_share(config.head_shares[1], config.expert_shares[1]) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("width", "heads", "neurons", "shared_heads", "shared_neurons"),
    [
        (384, 12, 1536, 6, 192),
        (128, 2, 512, 1, 64),
        (256, 4, 1024, 2, 128),
        (512, 8, 2048, 4, 256),
        (768, 12, 3072, 6, 384),
        (1024, 16, 4096, 8, 512),
        (312, 12, 1200, 6, 150),
    ],
)
def test_default_shapes_fit_parents_of_any_width(
    width: int, heads: int, neurons: int, shared_heads: int, shared_neurons: int
) -> None:
    base = EncoderConfig(
        vocab=100, width=width, layers=12, heads=heads, ffn_width=neurons, positions=512, norm_eps=1e-12
    )
    config = Shape(layers="third").plan(DenseFiles(base, {}, b""))
    assert config.shared_heads == shared_heads
    assert config.shared_neurons == pytest.approx(shared_neurons, abs=config.experts / 2)
    assert config.active_share(config.head_shares[1], config.expert_shares[1]) == pytest.approx(0.3)
