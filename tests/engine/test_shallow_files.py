"""The file of a shallow encoder: proved before use, the same bits in every way, and said to be what it is."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from typer.testing import CliRunner

from benchmarks.engine.shallow import write
from engine.client.remote import connect, info_sha256
from engine.errors import ModelFileError, OptionError
from engine.load import load_encoder
from engine.model.config import ShallowConfig
from engine.model.dense import DenseEncoder
from engine.runtime.local import LocalEncoder
from engine.weights.in_memory import load_stored_model
from engine.weights.quantized_file import quantize_encoder
from engine.weights.routed_file import SHALLOW_FORMAT, write_routed, write_shallow
from engine.weights.safetensors_file import TensorFile, metadata
from flows.cli.commands import app
from tests.engine.texts import make_texts
from tests.engine.tiny import BASE, tiny_routed, tiny_routed_config, tiny_shallow, tiny_tokenizer
from tests.engine_servers import post, server_process, server_thread

TEXTS = make_texts(30, longest=30, seed=5)
ONE_BUDGET = {"budgets": (1.0,), "head_shares": (1.0,), "expert_shares": (1.0,)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_shallow(tmp_path / "small.safetensors", tiny_shallow(), tiny_tokenizer(), {"steps": "12"})
    return tmp_path / "small.safetensors"


def test_everything_comes_back(path: Path) -> None:
    with TensorFile(path) as file:
        model, tokenizer = load_stored_model(file)
        assert file.metadata["steps"] == "12"
    assert isinstance(model, DenseEncoder)
    assert (model.config, tokenizer) == (tiny_shallow().config, tiny_tokenizer())
    for name, value in tiny_shallow().state_dict().items():
        within = value.abs().amax(dim=-1, keepdim=True) * (1 / 250 if name == "tokens.weight" else 1 / 2000)
        assert bool(((model.state_dict()[name] - value).abs() <= within).all()), name
    again = path.with_name("again.safetensors")
    write_shallow(again, model, tokenizer, {"steps": "12"})
    write_shallow(path, model, tokenizer, {"steps": "12"})
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_text_has_the_same_bits_alone_in_a_batch_and_served(path: Path, precision: str) -> None:
    encoder = load_encoder(str(path), threads=2, precision=precision)
    assert isinstance(encoder, LocalEncoder)
    vectors = encoder.encode(TEXTS)
    assert np.array_equal(np.concatenate([encoder.encode([text]) for text in TEXTS]), vectors)
    with server_thread(encoder) as server:
        assert (np.array(post(server.url, inputs=TEXTS).json(), np.float32) == vectors).all()


def test_a_project_finds_it_on_a_server(path: Path) -> None:
    with server_process("--encoder", str(path), "--threads", "1") as server:
        found = connect(server.url, name=str(path))
        assert (found.info["name"], found.info["active"]) == (path.name, None)
        assert found.info["sha256"] == info_sha256(str(path))
        assert np.array_equal(found.encode(TEXTS), load_encoder(str(path), threads=1).encode(TEXTS))
        with pytest.raises(OptionError, match=r"has active = None, the settings ask for 0\.3"):
            connect(server.url, name=str(path), active=0.3)


@pytest.mark.parametrize(("options", "served", "refused"), [((), 1.0, 0.3), (("--active", "0.5"), 0.5, None)])
def test_a_server_says_at_which_budget_it_computes(
    tmp_path: Path, options: tuple[str, ...], served: float, refused: float | None
) -> None:
    path = tmp_path / "two.safetensors"
    budgets = {"budgets": (0.5, 1.0), "head_shares": (0.5, 1.0), "expert_shares": (0.5, 1.0)}
    write_routed(path, tiny_routed(tiny_routed_config(**budgets)), tiny_tokenizer())
    with server_process("--encoder", str(path), "--threads", "1", *options) as server:
        assert connect(server.url, name=str(path), active=served).info["active"] == served
        with pytest.raises(OptionError, match=f"has active = {served}, the settings ask for {refused or 1.0}"):
            connect(server.url, name=str(path), active=refused)


@pytest.mark.parametrize(("precision", "name"), [("fp32", "shallow-80-"), ("int8", "shallow-int8-80-")])
def test_it_says_what_it_is(path: Path, precision: str, name: str) -> None:
    encoder = load_encoder(str(path), threads=1, precision=precision)
    assert encoder.encoder_id.startswith(name)
    traced = encoder.encode(TEXTS, trace=True)
    assert set(traced.active_frac.tolist()) == {np.float32(0.4)}
    assert set(traced.routes) == {""}


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_file_has_the_bits_of_its_source(path: Path, bits: int) -> None:
    small = path.with_name("smaller.safetensors")
    quantize_encoder(str(path), bits, small)
    source, encoder = (load_encoder(str(p), threads=1, precision=f"int{bits}") for p in (path, small))
    found, expected = encoder.encode(TEXTS, trace=True), source.encode(TEXTS, trace=True)
    assert np.array_equal(found.vectors, expected.vectors)
    assert np.array_equal(found.active_frac, expected.active_frac)
    assert encoder.encoder_id.startswith(f"shallow-int{bits}-80-")


def test_with_little_memory_bits_and_name_stay(path: Path) -> None:
    whole = load_encoder(str(path), threads=1)
    with TensorFile(path) as file:
        model, _ = load_stored_model(file)
    table = model.tokens.weight.nbytes
    size = sum(value.nbytes for value in model.state_dict().values())
    streamed = load_encoder(str(path), memory_budget=size - table)
    assert streamed.encoder_id == whole.encoder_id
    assert np.array_equal(streamed.encode(TEXTS), whole.encode(TEXTS))
    with pytest.raises(OptionError, match="two layers"):
        load_encoder(str(path), memory_budget=size // 4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_budget_is_refused(path: Path, precision: str) -> None:
    with pytest.raises(OptionError, match=r"active is 1\.0; the encoder in small\.safetensors is dense"):
        load_encoder(str(path), active=1.0, precision=precision)
    arguments = ["engine", "trace", "oil", "--encoder", str(path), "--precision", precision]
    assert "40.0%" in CliRunner().invoke(app, arguments).output
    assert isinstance(CliRunner().invoke(app, [*arguments, "--active", "0.3"]).exception, OptionError)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("layers.1.feed_forward.up.weight", None, r"layers\.1\.feed_forward\.up\.weight is missing"),
        ("more", torch.zeros(3), "unknown tensors"),
        ("norm.weight", torch.full((32,), torch.nan), "not finite"),
        ("layers.0.attention.qkv.weight", torch.zeros(32, 96), r"expected torch\.float16"),
        ("tokenizer.json", None, "no tokenizer"),
    ],
)
def test_damaged_files_are_refused(path: Path, name: str, value: torch.Tensor | None, reason: str) -> None:
    content = path.read_bytes()
    tensors = {**load(content), name: value}
    path.write_bytes(save({k: v for k, v in tensors.items() if v is not None}, metadata=metadata(content, name="x")))
    with pytest.raises(ModelFileError, match=reason):
        load_encoder(str(path))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "siftline-deep-1"}, "has format 'siftline-deep-1'"),
        ({"format": "siftline-routed-1"}, "cannot be used"),
        ({"config": "{}"}, "cannot be used"),
        ({"config": "["}, "not valid JSON"),
        ({"config": tiny_shallow().config.to_json().replace('"parent_layers": 5', '"parent_layers": 2')}, "more than"),
    ],
)
def test_foreign_files_are_refused(path: Path, precision: str, change: dict[str, str], reason: str) -> None:
    content = path.read_bytes()
    path.write_bytes(save(load(content), metadata={**metadata(content, name="x"), **change}))
    with pytest.raises(ModelFileError, match=reason):
        load_encoder(str(path), precision=precision)


@pytest.mark.parametrize("parent", [1, 2, 2.5, True, 1001])
def test_a_shallow_encoder_has_fewer_layers_than_its_parent(parent: object) -> None:
    config = tiny_shallow().config
    assert isinstance(config, ShallowConfig)
    assert ShallowConfig.parse(config.to_json()) == config
    with pytest.raises(ModelFileError, match="parent_layers"):
        replace(config, parent_layers=parent)


def test_the_shipped_form_of_a_trained_control_has_its_vectors(tmp_path: Path) -> None:
    control, output = tmp_path / "layers.safetensors", tmp_path / "shallow.safetensors"
    write_routed(control, tiny_routed(tiny_routed_config(kept=(0, 2), **ONE_BUDGET)), tiny_tokenizer(), {"steps": "9"})
    assert write(control, output) < 1e-5
    record = json.loads(output.with_suffix(".json").read_text("utf-8"))
    with TensorFile(output, record["sha256"]) as file:
        assert file.metadata["format"] == SHALLOW_FORMAT
        assert (file.metadata["steps"], file.metadata["layers"]) == ("9", "0,2")
    assert (record["file"], record["bytes"]) == (output.name, output.stat().st_size)
    routed, shallow = (load_encoder(str(path), threads=1) for path in (control, output))
    assert np.abs(routed.encode(TEXTS) - shallow.encode(TEXTS)).max() < 1e-5


def test_what_cannot_be_shallow_is_not_written(tmp_path: Path) -> None:
    control, output = tmp_path / "control.safetensors", tmp_path / "shallow.safetensors"
    for changes, reason in (({"kept": (0, 2)}, "has 4 budgets"), (ONE_BUDGET, f"all {BASE.layers} layers")):
        write_routed(control, tiny_routed(tiny_routed_config(**changes)), tiny_tokenizer())
        with pytest.raises(ModelFileError, match=reason):
            write(control, output)
    assert not output.exists()


def test_a_routed_encoder_of_one_budget_works_at_it_when_none_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    write_routed(path, tiny_routed(tiny_routed_config(**ONE_BUDGET)), tiny_tokenizer())
    for precision in ("fp32", "int8"):
        found, asked = (load_encoder(str(path), threads=1, precision=precision, active=a) for a in (None, 1.0))
        assert found.encoder_id == asked.encoder_id
        with pytest.raises(OptionError, match=r"no budget active=0\.3\. This encoder has: 1"):
            load_encoder(str(path), active=0.3, precision=precision)
