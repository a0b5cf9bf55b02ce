"""RoBERTa and DistilBERT give what BERT with the same weights gives; the vector may be the mean or [CLS]."""

import base64
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from engine.errors import ModelFileError
from engine.kernels.native.float32 import float_forward
from engine.model.config import FIRST, EncoderConfig, RoutedConfig
from engine.model.dense import pack
from engine.model.families import POSITIONS, TYPES
from engine.model.tokenizer import TextTokenizer
from engine.training.augment import word_pieces
from engine.training.convert import convert
from engine.weights.hugging_face import read_folder
from engine.weights.in_memory import dense_encoder
from engine.weights.shipped import DenseFiles
from tests.engine.tiny import BASE, tiny_routed_config, tiny_tensors, tiny_texts, tiny_tokenizer, write_folder

Tensors = dict[str, torch.Tensor]
DISTILBERT = {
    "model_type": "distilbert",
    "activation": "gelu",
    "vocab_size": BASE.vocab,
    "dim": BASE.width,
    "n_layers": BASE.layers,
    "n_heads": BASE.heads,
    "hidden_dim": BASE.ffn_width,
    "max_position_embeddings": BASE.positions,
    "sinusoidal_pos_embds": False,
}
DISTILBERTS = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def distilbert(folder: Path, tensors: Tensors) -> Path:
    named: Tensors = {}
    for name, value in tensors.items():
        theirs = name.replace("encoder.layer", "transformer.layer")
        for berts, other in DISTILBERTS.items():
            theirs = theirs.replace(berts, other)
        named[f"distilbert.{theirs}"] = value
    del named[f"distilbert.{TYPES}"]
    write_folder(folder, {**named, "vocab_transform.weight": torch.zeros(1)})
    (folder / "config.json").write_text(json.dumps(DISTILBERT), "utf-8")
    return folder


def roberta(folder: Path, tensors: Tensors) -> Path:
    padded = torch.cat([torch.full((2, BASE.width), 9.0), tensors[POSITIONS]])
    named = {f"roberta.{name}": value for name, value in {**tensors, POSITIONS: padded}.items()}
    named[f"roberta.{TYPES}"] = tensors[TYPES][:1].clone()
    sizes: dict[str, Any] = {"max_position_embeddings": BASE.positions + 2, "type_vocab_size": 1, "pad_token_id": 1}
    return write_folder(folder, named, model_type="roberta", **sizes)


def vectors(files: DenseFiles) -> torch.Tensor:
    with torch.inference_mode():
        return dense_encoder(files.config, files.tensors)(pack(sorted(tiny_texts(6, seed=3), key=len)))


@pytest.mark.parametrize("family", [distilbert, roberta])
def test_the_same_weights_give_the_same_vectors(tmp_path: Path, family: Callable[[Path, Tensors], Path]) -> None:
    tensors = tiny_tensors()
    if family is distilbert:
        tensors[TYPES].zero_()
    files = read_folder(family(tmp_path / "theirs", tensors))
    assert files.config == BASE
    assert torch.equal(vectors(files), vectors(read_folder(write_folder(tmp_path / "bert", tensors))))


def test_a_padding_without_a_place_is_refused(tmp_path: Path) -> None:
    roberta(tmp_path, tiny_tensors())
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "pad_token_id": None}), "utf-8")
    with pytest.raises(ModelFileError, match="pad_token_id = None"):
        read_folder(tmp_path)


def test_the_first_token_is_the_vector_where_the_folder_says_so() -> None:
    config = replace(BASE, pooling=FIRST)
    assert EncoderConfig.parse(config.to_json()) == config
    assert "pooling" not in BASE.to_json()  # files that were written before there was another one stay the same
    parent = dense_encoder(config, tiny_tensors())
    texts = sorted(tiny_texts(6, seed=3), key=len)
    batch = pack(texts)
    starts = torch.tensor([0, *torch.tensor([len(text) for text in texts]).cumsum(0)[:-1]])
    with torch.inference_mode():
        wanted = torch.nn.functional.normalize(parent.states(batch)[starts], dim=1)
        torch.testing.assert_close(parent(batch), wanted, atol=1e-6, rtol=0)
        torch.testing.assert_close(float_forward(parent)[0](batch, 0, None), wanted, atol=1e-5, rtol=0)
        routed = convert(tiny_routed_config(config), tiny_tensors(), texts, torch.Generator().manual_seed(0))
        assert RoutedConfig.parse(routed.config.to_json()).base.pooling == FIRST
        torch.testing.assert_close(routed(batch, 3), wanted, atol=1e-5, rtol=0)


def framed(tokenizer: Tokenizer, first: str, last: str) -> bytes:
    ends = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    tokenizer.add_special_tokens([first, last])
    return tokenizer.to_str().encode()


def test_a_sentence_piece_tokenizer_is_read(tmp_path: Path) -> None:
    pieces = ["<s>", "</s>", "<unk>", "\u2581", "\u2581\u0434\u043e\u043c", "a", *"bcdefghij"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(place)) for place, piece in enumerate(pieces)], unk_id=2))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    content = framed(tokenizer, "<s>", "</s>")
    mine = TextTokenizer(content, vocab=len(pieces), max_tokens=20)
    texts = ["\u0434\u043e\u043c", "", "a  \u0434\u043e\u043c", "\u4e2d", "</s>\u4e2d"]
    assert [tokens.ids for tokens in mine.encode(texts)] == [tokenizer.encode(text).ids for text in texts]
    assert [tokens.unread for tokens in mine.encode(texts)] == [0, 0, 0, 1, 1]
    assert set(word_pieces(content).ids) == set(range(2, len(pieces)))


def test_a_byte_level_tokenizer_is_read_once() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(["<s>", "</s>", *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    content = framed(tokenizer, "<s>", "</s>")
    mine = TextTokenizer(content, vocab=len(letters) + 2, max_tokens=50)
    texts = ["An \u00e9, \u4e2d.", ""]
    assert [tokens.ids for tokens in mine.encode(texts)] == [tokenizer.encode(text).ids for text in texts]
    twice = json.loads(content)
    twice["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [twice["pre_tokenizer"]] * 2}
    drawn = json.loads(content)
    drawn["model"]["dropout"] = 0.1
    for odd, words in ((twice, "the pre_tokenizer 'ByteLevel'"), (drawn, "a dropout of 0.1")):
        with pytest.raises(ModelFileError, match=words):
            TextTokenizer(json.dumps(odd).encode(), vocab=len(letters) + 2, max_tokens=50)


def test_a_table_of_characters_may_not_make_a_text_long() -> None:
    read = json.loads(tiny_tokenizer())
    for longest in (64, 65):
        table = base64.b64encode(bytes(4) + b"x" * longest + b"\0").decode()
        read["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": table}
        refused = pytest.raises(ModelFileError, match="the normalizer 'Precompiled', which may take any time")
        with refused if longest == 65 else nullcontext():
            TextTokenizer(json.dumps(read).encode(), vocab=BASE.vocab, max_tokens=20)


def test_rows_behind_the_last_token_are_few() -> None:
    assert TextTokenizer(tiny_tokenizer(), vocab=BASE.vocab + 28, max_tokens=20).encode([""])[0].ids == [2, 3]
    for vocab in (BASE.vocab - 1, BASE.vocab + 128):
        with pytest.raises(ModelFileError, match=f"100 tokens, the model has {vocab}"):
            TextTokenizer(tiny_tokenizer(), vocab=vocab, max_tokens=20)
