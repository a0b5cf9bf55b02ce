"""A damaged, foreign or missing model file is refused with the reason; where its hash is known, before parsing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from engine.errors import ModelFileError
from engine.model.config import EncoderConfig, RoutedConfig
from engine.model.tokenizer import TextTokenizer
from engine.runtime.loading import encoder_of, make_encoder_id
from engine.weights.shipped import MINILM, ModelPackage, encoder_tensors, package_files, read_proved, read_tensors
from tests.engine.tiny import tiny_routed, tiny_routed_config, tiny_tokenizer

TINY = EncoderConfig(vocab=10, width=8, layers=1, heads=2, ffn_width=16, positions=12, norm_eps=1e-12)


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in encoder_tensors(TINY).items()}


def refused(content: bytes, match: str) -> None:
    with pytest.raises(ModelFileError, match=match):
        read_tensors(content, encoder_tensors(TINY), name="model.safetensors")


def test_the_installed_model_is_the_published_one() -> None:
    files = package_files(MINILM)
    config = EncoderConfig.from_json(files["config.json"], files["1_Pooling/config.json"])
    assert (config.width, config.layers, config.heads, config.positions) == (384, 6, 12, 512)


def test_good_tensors_pass_and_unused_ones_are_left_out() -> None:
    found = read_tensors(save({**tensors(), "pooler.dense.bias": torch.zeros(8)}), encoder_tensors(TINY), name="m")
    assert found.keys() == encoder_tensors(TINY).keys()


def test_one_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    content = bytearray(package_files(MINILM)["config.json"])
    path.write_bytes(content)
    assert read_proved(path, MINILM.sha256["config.json"]) == bytes(content)
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged or from another model"):
        read_proved(path, MINILM.sha256["config.json"])


def test_missing_files_and_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model\.safetensors cannot be read"):
        read_proved(tmp_path / "model.safetensors", "0" * 64)
    package = ModelPackage(distribution="no-such-model==1", module="no_such_model", sha256={})
    with pytest.raises(ModelFileError, match="pip install 'no-such-model==1'"):
        package_files(package)


@pytest.mark.parametrize("cut", [0, 1, 8, 100, -1])
def test_a_truncated_file_is_refused(cut: int) -> None:
    refused(save(tensors())[:cut], "not a readable safetensors file")


def test_garbage_is_refused() -> None:
    refused(b"\xff" * 1000, "not a readable safetensors file")


def test_a_missing_tensor_is_named() -> None:
    wrong = tensors()
    del wrong["embeddings.LayerNorm.bias"]
    refused(save(wrong), "missing tensors .*embeddings.LayerNorm.bias")


def test_an_unknown_tensor_is_named() -> None:
    refused(save({**tensors(), "encoder.layer.1.new": torch.zeros(1)}), "unknown tensors .*encoder.layer.1.new")


def test_another_shape_is_refused() -> None:
    refused(save({**tensors(), "embeddings.LayerNorm.bias": torch.zeros(9)}), r"\(9,\), expected floats \(8,\)")


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.bool])
def test_another_type_is_refused(dtype: torch.dtype) -> None:
    refused(save({**tensors(), "embeddings.LayerNorm.bias": torch.zeros(8, dtype=dtype)}), str(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halved_tensors_are_widened(dtype: torch.dtype) -> None:
    value = torch.linspace(-1, 1, 8).to(dtype)
    found = read_tensors(save({**tensors(), "embeddings.LayerNorm.bias": value}), encoder_tensors(TINY), name="m")
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert torch.equal(found["embeddings.LayerNorm.bias"], value.float())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    refused(save({**tensors(), "embeddings.LayerNorm.bias": torch.full((8,), value)}), "not finite")


MODEL = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "position_embedding_type": "absolute",
    "vocab_size": 10,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-12,
}
POOLING = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


def read(model: Any, pooling: Any) -> EncoderConfig:
    return EncoderConfig.from_json(json.dumps(model).encode(), json.dumps(pooling).encode())


def test_a_config_is_read() -> None:
    assert read(MODEL, POOLING) == TINY


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
        ({"num_attention_heads": 3}, "3 heads do not divide its width 8"),
        ({"num_hidden_layers": 0}, "layers is 0"),
        ({"hidden_size": "8"}, "'8'"),
        ({"vocab_size": True}, "True"),
        ({"layer_norm_eps": 0}, "norm_eps"),
        ({"layer_norm_eps": None}, "cannot be used"),
        ({"layer_norm_eps": 10**400}, "cannot be used"),
        ({"hidden_size": 16}, "width 8, config.json says 16"),
    ],
)
def test_a_config_of_another_model_is_refused(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelFileError, match=match):
        read({**MODEL, **change}, POOLING)


def test_another_pooling_is_refused() -> None:
    with pytest.raises(ModelFileError, match=r"mean of tokens or \[CLS\] only"):
        read(MODEL, {**POOLING, "pooling_mode_cls_token": True})


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000])
def test_a_config_that_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json"):
        EncoderConfig.from_json(content, json.dumps(POOLING).encode())


def test_a_tokenizer_of_another_model_is_refused() -> None:
    content = package_files(MINILM)["tokenizer.json"]
    with pytest.raises(ModelFileError, match="30522 tokens, the model has 30000"):
        TextTokenizer(content, vocab=30000, max_tokens=64)
    with pytest.raises(ModelFileError, match="cannot be read"):
        TextTokenizer(content[:1000], vocab=30522, max_tokens=64)


def test_a_tokenizer_with_ids_beyond_the_model_is_refused() -> None:
    values = json.loads(tiny_tokenizer())
    vocabulary = values["model"]["vocab"]
    vocabulary["word5"] = len(vocabulary) + 7  # as many tokens as the model has, and a hole
    with pytest.raises(ModelFileError, match="a token with the id 107, the model's go up to 99"):
        TextTokenizer(json.dumps(values).encode(), vocab=100, max_tokens=64)


def test_a_tokenizer_that_cannot_be_used_is_refused_in_words() -> None:
    values = json.loads(tiny_tokenizer())
    vocabulary = values["model"]["vocab"]
    vocabulary["[ODD]"] = vocabulary.pop("[UNK]")
    tokenizer = TextTokenizer(json.dumps(values).encode(), vocab=100, max_tokens=64)
    assert len(tokenizer.encode(["oil"])[0].ids) == 3
    with pytest.raises(ModelFileError, match=r"cannot be used: WordLevel error: Missing \[UNK\] token"):
        tokenizer.encode(["oil", "unheard-of"])
    values["normalizer"]["type"] = {"type": "Lowercase"}
    with pytest.raises(ModelFileError, match="cannot be read"):
        TextTokenizer(json.dumps(values).encode(), vocab=100, max_tokens=64)


def _replace(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}


TENFOLD = _replace({"String": "a"}, 10 * "a")
BACKWARDS = {"Regex": "(a+)+$"}


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("normalizer", {"type": "Sequence", "normalizers": 12 * [TENFOLD]}, "the normalizer 'Replace'"),
        ("normalizer", {"type": "Sequence", "normalizers": 40 * [{"type": "ByteLevel"}]}, "the normalizer 'ByteLevel'"),
        ("normalizer", _replace(BACKWARDS, ""), "the normalizer 'Replace'"),
        ("pre_tokenizer", {"type": "Split", "pattern": BACKWARDS}, "the pre_tokenizer 'Split'"),
        ("model", {"type": "WordPiece", "max_input_chars_per_word": 10**9}, "words of up to 1000000000 characters"),
    ],
)
def test_a_tokenizer_without_bounds_is_refused(part: str, value: object, words: str) -> None:
    values = json.loads(tiny_tokenizer())
    with pytest.raises(ModelFileError, match=f"has {words}, which may take any time and memory"):
        TextTokenizer(json.dumps({**values, part: value}).encode(), vocab=100, max_tokens=64)


def test_a_tokenizer_may_put_shorter_texts_in_the_place_of_longer_ones() -> None:
    values = json.loads(tiny_tokenizer())
    quotes = [_replace({"String": "``"}, '"'), {"type": "NFKD"}, {"type": "Lowercase"}]
    values["normalizer"] = {"type": "Sequence", "normalizers": quotes}
    tokenizer = TextTokenizer(json.dumps(values).encode(), vocab=100, max_tokens=64)
    assert len(tokenizer.encode(["Word5 word6"])[0].ids) == 4


def test_the_id_changes_with_everything_that_decides_a_bit() -> None:
    files = {"model.safetensors": "a", "tokenizer.json": "b"}
    base = make_encoder_id("dense", files, max_tokens=64, precision="float32")
    assert base == make_encoder_id("dense", dict(reversed(files.items())), max_tokens=64, precision="float32")
    others = {
        make_encoder_id("dense", {**files, "model.safetensors": "c"}, max_tokens=64, precision="float32"),
        make_encoder_id("dense", files, max_tokens=65, precision="float32"),
        make_encoder_id("dense", files, max_tokens=64, precision="int8"),
        make_encoder_id("routed", files, max_tokens=64, precision="float32"),
    }
    assert len({base, *others}) == 5


def test_budgets_that_are_nearly_one_have_two_ids() -> None:
    model = tiny_routed(tiny_routed_config(budgets=(0.2, 0.3, 0.3000001, 1.0)))
    ids = {
        encoder_of(model, tiny_tokenizer(), sha256={"encoder": "a"}, active=active, max_tokens=20, threads=1).encoder_id
        for active in model.config.budgets
    }
    assert len(ids) == 4
    assert {"-".join(name.split("-")[:2]) for name in ids} == {
        "routed0.2-20",
        "routed0.3-20",
        "routed0.3000001-20",
        "routed1-20",
    }


@pytest.mark.parametrize("config", [EncoderConfig, RoutedConfig])
def test_half_a_letter_in_the_configuration_of_a_file_is_refused(config: type[EncoderConfig | RoutedConfig]) -> None:
    with pytest.raises(ModelFileError, match="not valid JSON"):
        config.parse("\ud800")
