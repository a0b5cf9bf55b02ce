"""A dense model in a Hugging Face folder, read only where this engine computes what the folder's own libraries would.

transformers and sentence-transformers take settings from files beside the weights: the pooling, a prompt, the case of
letters. Whatever would give other vectors there is refused, with what to do; nothing of it is guessed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from engine.errors import ModelFileError
from engine.model.config import EncoderConfig, json_object
from engine.model.families import FAMILIES, POSITIONS, TYPES
from engine.weights.shipped import WEIGHTS, DenseFiles, encoder_tensors, read_tensors

_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})
"""Steps of a sentence-transformers model that are computed here."""
_SETTINGS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""In tokenizer_config.json, and what it is called in tokenizer.json; transformers goes by the former."""
_AS_STORED = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""Tokenizer classes of transformers that go by tokenizer.json alone."""


def read_folder(folder: Path) -> DenseFiles:
    """A model of one of `FAMILIES` from a Hugging Face folder: config.json, model.safetensors and tokenizer.json, and
    what sentence-transformers adds where it is there. Without a pooling the mean of the tokens is taken.

    Args:
        folder: the folder.

    Raises:
        ModelFileError: a file is missing, damaged, or asks for what this encoder does not compute.
    """
    steps = _steps(folder)
    inner = folder / steps.get("Transformer", "")
    model = _content(inner, "config.json")
    pooling, place = None, f"{steps.get('Pooling', '1_Pooling')}/config.json"
    if "Pooling" in steps or (folder / place).is_file():
        pooling = _pooling(folder, place)
    config = EncoderConfig.from_json(model, pooling, place)
    _check_prompt(folder)
    tensors = _tensors(inner, config, json_object(model, "config.json"))
    tokenizer = _content(inner, "tokenizer.json")
    _check_case(inner, json_object(tokenizer, "tokenizer.json").get("normalizer") or {})
    return DenseFiles(config, tensors, tokenizer)


def _tensors(folder: Path, config: EncoderConfig, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors as BERT has them: with token types, and with positions that begin at a text's first token."""
    family = FAMILIES[values["model_type"]]
    types = values.get("type_vocab_size", 2) if family.types else 0
    if type(types) is not int or types < family.types:
        raise ModelFileError(f"config.json has type_vocab_size = {types!r}; it must be a whole number from 1.")
    shapes = encoder_tensors(config, types=types)
    if not types:
        del shapes[TYPES]
    skipped = family.skipped_positions(values)
    shapes[POSITIONS] = (config.positions + skipped, config.width)
    tensors = read_tensors(_content(folder, WEIGHTS), shapes, name=str(folder / WEIGHTS), family=family)
    tensors[POSITIONS] = tensors[POSITIONS][skipped:]
    return {TYPES: torch.zeros(1, config.width)} | tensors


def _content(folder: Path, name: str) -> bytes:
    try:
        return _read(folder / name)
    except OSError as error:
        raise ModelFileError(
            f"The model folder {folder} has no readable {name}: {error}. Needed are config.json, tokenizer.json "
            "and model.safetensors; a model in another format or in several files can be saved with "
            "save_pretrained(..., safe_serialization=True, max_shard_size='50GB'), and tokenizer.json is made by "
            "transformers' AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        ) from error


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise OSError("it is no file")  # a link to a device, which never ends
    return path.read_bytes()


def _further(folder: Path, name: str) -> Mapping[str, Any]:
    """The settings in a file that a folder need not have."""
    path = folder / name
    try:
        return json_object(_read(path), name) if path.exists() else {}
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error}.") from error


def _steps(folder: Path) -> dict[str, str]:
    """Where the steps of a sentence-transformers model lie, by kind; empty where the folder is of transformers alone.

    Raises:
        ModelFileError: a step is not computed here.
    """
    if not (folder / "modules.json").exists():
        return {}
    try:
        read = json.loads(_content(folder, "modules.json"))
        found = {str(module["type"]).rpartition(".")[2]: str(module.get("path", "")) for module in read}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"modules.json cannot be used: {error!r}.") from error
    unknown = sorted(found.keys() - _MODULES)
    if unknown:
        raise ModelFileError(
            f"modules.json has the steps {unknown}; computed here are {', '.join(sorted(_MODULES))} only."
        )
    return found


def _pooling(folder: Path, place: str) -> bytes:
    try:
        return _read(folder / place)
    except OSError as error:
        raise ModelFileError(
            f"modules.json names a pooling, and {place} cannot be read: {error}. Without it nobody knows whether the "
            "model takes the mean of its tokens. Fetch the whole folder of the model."
        ) from error


def _check_prompt(folder: Path) -> None:
    """Refuses a prompt that sentence-transformers puts before every text."""
    name = "config_sentence_transformers.json"
    settings = _further(folder, name)
    default, prompts = settings.get("default_prompt_name"), settings.get("prompts")
    prompt = prompts.get(default) if isinstance(prompts, dict) and isinstance(default, str) else None
    if prompt:
        raise ModelFileError(
            f"{name} has the prompt {prompt!r} put before every text (default_prompt_name {default!r}), which is not "
            "done here. Set default_prompt_name to null there, and put the prompt before your texts yourself, those "
            "of --text too."
        )


def _check_case(folder: Path, normalizer: Mapping[str, Any]) -> None:
    """Refuses settings beside tokenizer.json by which the model's own libraries would change a text in another way."""
    settings = _further(folder, "tokenizer_config.json")
    if normalizer.get("type") == "BertNormalizer" and settings.get("tokenizer_class") not in _AS_STORED:
        for name, stored in _SETTINGS.items():
            if name in settings and settings[name] != normalizer.get(stored):
                raise ModelFileError(
                    f"tokenizer_config.json has {name} = {json.dumps(settings[name])}, tokenizer.json has {stored} = "
                    f"{json.dumps(normalizer.get(stored))}, and transformers goes by the first: "
                    "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes a tokenizer.json to match."
                )
    name = "sentence_bert_config.json"
    if _further(folder, name).get("do_lower_case") is True and not _lowers(normalizer):
        raise ModelFileError(
            f"{name} has do_lower_case = true, and tokenizer.json keeps capitals. "
            "SentenceTransformer(folder).save(other) writes a folder whose tokenizer.json lowers them."
        )


def _lowers(normalizer: Mapping[str, Any]) -> bool:
    steps = normalizer.get("normalizers") or [normalizer]
    return any(step.get("type") == "Lowercase" or step.get("lowercase") is True for step in steps)
