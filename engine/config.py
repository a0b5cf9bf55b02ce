"""The shape of a BERT-like encoder, read from the model's own config.json and checked.

Only what this code computes is accepted: a model that needs another activation, another kind of position or another
pooling is refused here instead of giving wrong vectors later.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, cast

from engine.errors import ModelFileError

_FIXED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Sizes of the encoder.

    Attributes:
        vocab: token ids are 0 to vocab - 1.
        width: D, the width of a token's state and of the final vector.
        layers: number of layers.
        heads: attention heads per layer; they share `width` evenly.
        ffn_width: inner width of the feed-forward part.
        positions: longest sequence in tokens.
        norm_eps: added to the variance in layer normalisation.

    Raises:
        ModelFileError: a size is not positive, or the heads do not divide the width.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    ffn_width: int
    positions: int
    norm_eps: float

    def __post_init__(self) -> None:
        for name in ("vocab", "width", "layers", "heads", "ffn_width", "positions"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ModelFileError(f"The encoder's {name} is {value!r}; it must be a whole number above 0.")
        if not 0 < self.norm_eps < 1:
            raise ModelFileError(f"The encoder's norm_eps is {self.norm_eps!r}; it must lie between 0 and 1.")
        if self.width % self.heads:
            raise ModelFileError(f"The encoder's {self.heads} heads do not divide its width {self.width}.")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @classmethod
    def from_json(cls, model: bytes, pooling: bytes) -> Self:
        """Read the files config.json and 1_Pooling/config.json of a sentence-transformers model.

        Args:
            model: content of config.json.
            pooling: content of 1_Pooling/config.json.

        Raises:
            ModelFileError: a value is missing or is one that this code does not compute.
        """
        values = _object(model, "config.json")
        for name, wanted in _FIXED.items():
            if values.get(name) != wanted:
                raise ModelFileError(
                    f"config.json has {name} = {values.get(name)!r}, this encoder computes {wanted!r} only."
                )
        pool = _object(pooling, "1_Pooling/config.json")
        on = sorted(name for name, value in pool.items() if name.startswith("pooling_mode_") and value is True)
        if on != ["pooling_mode_mean_tokens"]:
            raise ModelFileError(f"1_Pooling/config.json asks for {on}, this encoder computes the mean of tokens only.")
        try:
            config = cls(
                vocab=values["vocab_size"],
                width=values["hidden_size"],
                layers=values["num_hidden_layers"],
                heads=values["num_attention_heads"],
                ffn_width=values["intermediate_size"],
                positions=values["max_position_embeddings"],
                norm_eps=float(values["layer_norm_eps"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"config.json cannot be used: {error!r}.") from error
        if pool.get("word_embedding_dimension") != config.width:
            raise ModelFileError(
                f"1_Pooling/config.json is for width {pool.get('word_embedding_dimension')!r}, config.json says "
                f"{config.width}."
            )
        return config


def _object(content: bytes, name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{name} holds {type(value).__name__}, expected an object.")
    return cast("dict[str, Any]", value)
