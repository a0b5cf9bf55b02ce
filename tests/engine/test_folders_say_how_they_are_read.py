"""What lies beside the weights in a Hugging Face folder and changes its vectors is obeyed or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers, processors

from engine.errors import ModelFileError
from engine.model.dense import pack
from engine.model.tokenizer import TextTokenizer
from engine.weights.hugging_face import read_folder
from engine.weights.in_memory import dense_encoder
from tests.engine.tiny import BASE, tiny_tensors, tiny_tokenizer, write_folder

STEPS = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
MEAN = {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def with_steps(folder: Path, pooling: dict[str, Any] | None, **places: str) -> Path:
    steps = [{"type": f"sentence_transformers.models.{n}", "path": p} for n, p in {**STEPS, **places}.items()]
    write_json(folder / "modules.json", steps)
    if pooling is not None:
        write_json(folder / {**STEPS, **places}["Pooling"] / "config.json", pooling)
    return folder


def test_the_pooling_is_read_where_modules_json_says(tmp_path: Path) -> None:
    folder = with_steps(write_folder(tmp_path), {**MEAN, "pooling_mode_mean_tokens": False}, Pooling="pooling")
    with pytest.raises(ModelFileError, match=r"pooling/config\.json asks for \[\], .*mean of tokens or \[CLS\] only"):
        read_folder(folder)
    with_steps(folder, MEAN, Pooling="pooling")
    assert read_folder(folder).config == BASE


def test_a_pooling_that_is_named_and_not_there_is_not_guessed(tmp_path: Path) -> None:
    folder = with_steps(write_folder(tmp_path), None)
    with pytest.raises(ModelFileError, match=r"1_Pooling/config\.json cannot be read: .*Fetch the whole folder"):
        read_folder(folder)


def test_a_model_in_a_folder_of_its_own_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "0_Transformer")
    assert read_folder(with_steps(tmp_path, MEAN, Transformer="0_Transformer")).config == BASE


def test_a_prompt_before_every_text_is_refused(tmp_path: Path) -> None:
    folder, name = write_folder(tmp_path), "config_sentence_transformers.json"
    write_json(folder / name, {"prompts": {"query": "query: "}, "default_prompt_name": "query"})
    with pytest.raises(ModelFileError, match=r"the prompt 'query: ' put before every text.*to null"):
        read_folder(folder)
    for prompts, default in (({"query": "query: "}, None), ({"query": ""}, "query"), (None, None)):
        write_json(folder / name, {"prompts": prompts, "default_prompt_name": default})
        assert read_folder(folder).config == BASE


def bert_tokenizer(**settings: Any) -> bytes:
    tokenizer = Tokenizer.from_str(tiny_tokenizer().decode())
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    return tokenizer.to_str().encode()


@pytest.mark.parametrize(
    ("stored", "name", "value"),
    [
        ({"lowercase": False}, "do_lower_case", True),
        ({"lowercase": True}, "do_lower_case", False),
        ({"strip_accents": None}, "strip_accents", False),
        ({"handle_chinese_chars": True}, "tokenize_chinese_chars", False),
    ],
)
def test_two_files_that_say_two_things_of_the_tokenizer_are_refused(
    tmp_path: Path, stored: dict[str, Any], name: str, value: bool
) -> None:
    folder, settings = write_folder(tmp_path), tmp_path / "tokenizer_config.json"
    (folder / "tokenizer.json").write_bytes(bert_tokenizer(**stored))
    write_json(settings, {"tokenizer_class": "BertTokenizer", name: value})
    with pytest.raises(ModelFileError, match=rf"{name} = {str(value).lower()}, .*AutoTokenizer"):
        read_folder(folder)
    write_json(settings, {"tokenizer_class": "PreTrainedTokenizerFast", name: value})  # it takes the file as it is
    assert read_folder(folder).config == BASE
    write_json(settings, {"tokenizer_class": "BertTokenizer", name: next(iter(stored.values()))})
    assert read_folder(folder).config == BASE


def test_capitals_that_sentence_transformers_would_lower_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    write_json(folder / "sentence_bert_config.json", {"do_lower_case": True})
    assert read_folder(folder).config == BASE  # this tokenizer lowers them itself
    (folder / "tokenizer.json").write_bytes(bert_tokenizer(lowercase=False))
    with pytest.raises(ModelFileError, match=r"do_lower_case = true, and tokenizer\.json keeps capitals"):
        read_folder(folder)


def test_settings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "tokenizer_config.json").write_text("[]", "utf-8")
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json holds list"):
        read_folder(folder)
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").mkdir()
    with pytest.raises(ModelFileError, match=r"tokenizer_config\.json cannot be read"):
        read_folder(folder)


def test_a_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="sees only those before it"):
        read_folder(write_folder(tmp_path, is_decoder=True))
    assert read_folder(write_folder(tmp_path, is_decoder=False)).config == BASE


def test_the_first_berts_names_of_a_normalisation_are_read(tmp_path: Path) -> None:
    """bert-base-uncased and its siblings have them to this day."""
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    stored = {
        f"bert.{name}".replace(*next((o for o in old.items() if o[0] in name), ("", ""))): value
        for name, value in tiny_tensors().items()
    }
    assert sum(name.endswith((".gamma", ".beta")) for name in stored) == 14
    found = read_folder(write_folder(tmp_path, stored)).tensors
    assert all(torch.equal(found[name], value) for name, value in tiny_tensors().items())


@pytest.mark.parametrize("rows", [1, 3])
def test_any_number_of_token_types_is_read(tmp_path: Path, rows: int) -> None:
    name = "embeddings.token_type_embeddings.weight"
    types = torch.cat([tiny_tensors()[name][:1], torch.full((rows - 1, BASE.width), 9.0)])
    files = read_folder(write_folder(tmp_path, tiny_tensors() | {name: types}, type_vocab_size=rows))
    batch = pack([[2, 5, 6, 3]])
    found, expected = (dense_encoder(BASE, tensors)(batch) for tensors in (files.tensors, tiny_tensors()))
    assert torch.equal(found, expected)
    for wrong in (0, "2", None, True):
        with pytest.raises(ModelFileError, match="type_vocab_size"):
            read_folder(write_folder(tmp_path, type_vocab_size=wrong))


def test_a_tokenizer_that_frames_a_text_otherwise_is_refused() -> None:
    tokenizer = Tokenizer.from_str(tiny_tokenizer().decode())
    frames = {"[CLS] $A [SEP]": [2, 3], "[SEP] $A [CLS]": [3, 2], "[CLS] $A": [], "$A [SEP] [CLS]": []}
    for frame, fits in frames.items():
        tokenizer.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        content = tokenizer.to_str().encode()
        if fits:
            assert TextTokenizer(content, vocab=BASE.vocab, max_tokens=20).encode([""])[0].ids == fits
            continue
        with pytest.raises(ModelFileError, match="makes of the text 'a' the tokens"):
            TextTokenizer(content, vocab=BASE.vocab, max_tokens=20)
