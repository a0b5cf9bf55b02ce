"""A quantised file computes what its source computes at that precision, is smaller, and is refused when damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from typer.testing import CliRunner

from engine.errors import EngineError, ModelFileError, OptionError
from engine.kernels.int8 import TorchInt8
from engine.load import load_encoder
from engine.model.dense import DenseEncoder, pack
from engine.model.routed import RoutedEncoder
from engine.runtime.local import LocalEncoder
from engine.weights.quantize import quantize
from engine.weights.quantized_file import quantize_encoder, read_quantized, write_quantized
from engine.weights.routed_file import write_routed
from engine.weights.safetensors_file import TensorFile, metadata
from flows.cli.commands import app
from tests.engine.texts import make_texts
from tests.engine.tiny import tiny_parent, tiny_routed, tiny_texts, tiny_tokenizer
from tests.engine_servers import post, server_thread


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("model", [tiny_parent(), tiny_routed()], ids=["dense", "routed"])
def test_everything_comes_back(tmp_path: Path, model: DenseEncoder | RoutedEncoder, bits: int) -> None:
    path, weights = tmp_path / "small.safetensors", quantize(model, bits)
    write_quantized(path, weights, tiny_tokenizer(), {"source": "a test"})
    with TensorFile(path, None) as file:
        found, tokenizer = read_quantized(file)
        assert (found.config, found.bits, tokenizer) == (model.config, bits, tiny_tokenizer())
        expected, tensors = weights.tensors(), found.tensors()
    assert expected.keys() == tensors.keys() == weights.sizes.layout().keys()
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())
    with torch.inference_mode():
        vectors = TorchInt8(weights).forward(pack(tiny_texts(4, seed=1)), 0)
    assert torch.isfinite(vectors).all()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped routed encoder in 4 bits, as the command writes it."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    done = CliRunner().invoke(app, ["engine", "quantize", "--bits", "4", "--output", str(path)])
    assert done.exit_code == 0, done.output
    assert 'or as [encoder] name and precision = "int4" in siftline.toml.' in done.output
    return path


def test_the_small_file_gives_the_bits_of_its_source_everywhere(small: Path) -> None:
    texts = make_texts(12, longest=30, seed=4)
    source = load_encoder("routed", max_tokens=64, threads=2, precision="int4")
    encoder = load_encoder(str(small), max_tokens=64, threads=2, precision="int4")
    assert isinstance(encoder, LocalEncoder)
    vectors = source.encode(texts)
    assert np.array_equal(encoder.encode(texts), vectors)
    assert np.array_equal(np.concatenate([encoder.encode([text]) for text in texts[::-1]])[::-1], vectors)
    with server_thread(encoder) as server:
        assert (np.array(post(server.url, inputs=texts).json(), np.float32) == vectors).all()
    assert encoder.encoder_id != source.encoder_id  # a name is made from the files
    assert small.stat().st_size < 13e6  # 27 MB is the float16 file, of which 12 are the table in 8 bits


def test_a_file_has_its_own_precision_only(small: Path) -> None:
    for precision in ("fp32", "int8"):
        with pytest.raises(OptionError, match=f"has the precision 'int4', and '{precision}' is wanted"):
            load_encoder(str(small), precision=precision)
    with pytest.raises(EngineError, match="siftline-quantized-1"):
        quantize_encoder(str(small), 4, small.with_name("again.safetensors"))


def test_an_encoder_is_not_overwritten_by_its_small_form(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    write_routed(path, tiny_routed(), tiny_tokenizer())
    before = path.read_bytes()
    (tmp_path / "again.safetensors").symlink_to(path)
    for output in (path, tmp_path / "again.safetensors"):
        with pytest.raises(OptionError, match="is the encoder itself"):
            quantize_encoder(str(path), 8, output)
    assert path.read_bytes() == before


def test_bits_between_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["engine", "quantize", "--bits", "5", "--output", str(tmp_path / "x.safetensors")])
    assert isinstance(done.exception, OptionError)
    with pytest.raises(OptionError, match="must end in"):
        quantize_encoder("dense", 4, tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("layers.0.up.nibbles", None, "layers.0.up.nibbles is missing"),
        ("more", torch.zeros(3), "unknown tensors"),
        ("norm.weight", torch.full((32,), torch.nan), "not finite"),
        ("layers.1.up.groups", torch.zeros(2, 2, dtype=torch.float16), "expected torch.float16"),
        ("layers.0.expert_router.values", torch.full((4, 32), 30_000, dtype=torch.int16), "beyond 1023"),
        ("layers.0.qkv.values", torch.full((96, 32), -128, dtype=torch.int8), "beyond 127"),
        ("tokenizer.json", None, "no tokenizer"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, value: torch.Tensor | None, reason: str) -> None:
    path = tmp_path / "small.safetensors"
    write_quantized(path, quantize(tiny_routed(), 4), tiny_tokenizer(), {})
    content = path.read_bytes()
    tensors = {**load(content), name: value}
    path.write_bytes(save({k: v for k, v in tensors.items() if v is not None}, metadata=metadata(content, name="x")))
    with pytest.raises(ModelFileError, match=reason):
        load_encoder(str(path), precision="int4")


def test_a_file_that_is_cut_off_or_foreign_is_refused(tmp_path: Path, small: Path) -> None:
    path = tmp_path / "small.safetensors"
    path.write_bytes(small.read_bytes()[:-1000])
    with pytest.raises(ModelFileError, match="damaged or cut off"):
        load_encoder(str(path), precision="int4")
    notes = metadata(small.read_bytes(), name="x")
    for change in ({"bits": "3"}, {"config": "{}"}, {"kind": "dense"}):
        path.write_bytes(save(load(small.read_bytes()), metadata={**notes, **change}))
        with pytest.raises(ModelFileError):
            load_encoder(str(path), precision="int4")
