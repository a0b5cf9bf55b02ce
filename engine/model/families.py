"""The model types of transformers that are BERT but for their names, and how each says what this engine computes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ModelFileError

POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"
"""All tokens of a single text are of type 0, so its embedding is a part of each position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One model type.

    Attributes:
        prefix: before the encoder's tensors in a checkpoint that has a head on top.
        sizes: what `EncoderConfig` calls a size -> what config.json calls it.
        activation: what config.json calls the activation.
        norm_eps: of layer normalisation; None where config.json has it.
        types: whether there are token types.
        pads_first: whether the places up to the padding's in the table of positions are no token's.
        renamed: a part of a tensor's name -> what BERT calls it.
    """

    prefix: str
    sizes: Mapping[str, str]
    activation: str = "hidden_act"
    norm_eps: float | None = None
    types: bool = True
    pads_first: bool = False
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])

    def skipped_positions(self, values: Mapping[str, Any]) -> int:
        """Rows of the table of positions before the first token's.

        Raises:
            ModelFileError: config.json tells no place of the padding.
        """
        if not self.pads_first:
            return 0
        padding = values.get("pad_token_id", 1)
        if type(padding) is not int or padding < 0:
            raise ModelFileError(f"config.json has pad_token_id = {padding!r}; it must be a whole number from 0.")
        return padding + 1

    def berts_name(self, tensor: str) -> str:
        """What BERT calls a tensor of this family."""
        for theirs, berts in self.renamed.items():
            tensor = tensor.replace(theirs, berts)
        return tensor


_BERTS = {
    "vocab": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn_width": "intermediate_size",
    "positions": "max_position_embeddings",
}
_ROBERTA = Family(prefix="roberta.", sizes=_BERTS, pads_first=True)
FAMILIES: Mapping[str, Family] = {
    "bert": Family(prefix="bert.", sizes=_BERTS),
    "camembert": _ROBERTA,
    "distilbert": Family(
        prefix="distilbert.",
        sizes=_BERTS | {"width": "dim", "layers": "n_layers", "heads": "n_heads", "ffn_width": "hidden_dim"},
        activation="activation",
        norm_eps=1e-12,
        types=False,
        renamed={
            "transformer.layer": "encoder.layer",
            "attention.q_lin": "attention.self.query",
            "attention.k_lin": "attention.self.key",
            "attention.v_lin": "attention.self.value",
            "attention.out_lin": "attention.output.dense",
            "sa_layer_norm": "attention.output.LayerNorm",
            "ffn.lin1": "intermediate.dense",
            "ffn.lin2": "output.dense",
            "output_layer_norm": "output.LayerNorm",
        },
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""By `model_type`."""
