"""The shape of a BERT-like encoder, read from the model's own config.json and checked.

Only what this code computes is accepted: a model that needs another activation, another kind of position or another
pooling is refused here instead of giving wrong vectors later.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self, cast

from engine.errors import ModelFileError, OptionError
from engine.model.families import FAMILIES
from engine.protocol import DEFAULT_ACTIVE

LARGEST = 2**24
"""No size of an encoder is larger; keeps a damaged file from asking for memory without end."""
MOST_LAYERS = 1000
EXPERT_MODES = ("sequence", "token")

MEAN, FIRST = "mean", "first"
_POOLINGS = {"mean": MEAN, "cls": FIRST, "pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": FIRST}
"""By the name that sentence-transformers gives them, and gave them once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Config:
    def to_json(self) -> str:
        """The configuration as JSON, for the file of the weights."""
        values = asdict(self)
        for sizes in (values, values.get("base", {})):
            if sizes.get("pooling") == MEAN:  # as in files that were written when there was no other
                del sizes["pooling"]
        return json.dumps(values, sort_keys=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig(_Config):
    """Sizes of the encoder.

    Attributes:
        vocab: token ids are 0 to vocab - 1.
        width: D, the width of a token's state and of the final vector.
        layers: number of layers.
        heads: attention heads per layer; they share `width` evenly.
        ffn_width: inner width of the feed-forward part.
        positions: longest sequence in tokens.
        norm_eps: added to the variance in layer normalisation.
        pooling: what becomes a text's vector: "mean" of its tokens' states, or the "first" one, [CLS].

    Raises:
        ModelFileError: a size is not positive, the heads do not divide the width, or the pooling is another one.
    """

    vocab: int
    width: int
    layers: int
    heads: int
    ffn_width: int
    positions: int
    norm_eps: float
    pooling: str = MEAN

    kind: ClassVar[str] = "dense"
    """Part of the encoder_id."""

    def __post_init__(self) -> None:
        for name in ("vocab", "width", "layers", "heads", "ffn_width", "positions"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= LARGEST:
                raise ModelFileError(
                    f"The encoder's {name} is {value!r}; it must be a whole number from 1 to {LARGEST}."
                )
        if self.layers > MOST_LAYERS:
            raise ModelFileError(f"The encoder's layers are {self.layers}; {MOST_LAYERS} are the most.")
        if not 0 < self.norm_eps < 1:
            raise ModelFileError(f"The encoder's norm_eps is {self.norm_eps!r}; it must lie between 0 and 1.")
        if self.pooling not in (MEAN, FIRST):
            raise ModelFileError(f"The encoder's pooling is {self.pooling!r}; it must be '{MEAN}' or '{FIRST}'.")
        if self.width % self.heads:
            raise ModelFileError(f"The encoder's {self.heads} heads do not divide its width {self.width}.")

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def active_frac(self) -> float:
        """Share of the parent's layer parameters that work; a dense encoder is its own parent."""
        return 1.0

    @classmethod
    def parse(cls, content: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ModelFileError: the text is no valid configuration.
        """
        values = json_object(content.encode("utf-8", "surrogatepass"), "the configuration of the encoder")
        try:
            return cls(**values)
        except TypeError as error:
            raise ModelFileError(f"The configuration of the encoder cannot be used: {error!r}.") from error

    @classmethod
    def from_json(cls, model: bytes, pooling: bytes | None, pooling_name: str = "1_Pooling/config.json") -> Self:
        """Read the files config.json and 1_Pooling/config.json of a model of one of `FAMILIES`.

        Args:
            model: content of config.json.
            pooling: content of 1_Pooling/config.json; None where there is none, then the mean of the tokens is taken.
            pooling_name: what to call that file in messages.

        Raises:
            ModelFileError: a value is missing or is one that this code does not compute.
        """
        values = json_object(model, "config.json")
        family = FAMILIES.get(str(values.get("model_type")))
        if family is None:
            raise ModelFileError(
                f"config.json has model_type = {values.get('model_type')!r}, this encoder computes "
                f"{', '.join(FAMILIES)} only."
            )
        for name, wanted in ((family.activation, "gelu"), ("position_embedding_type", "absolute")):
            if values.get(name, wanted if name == "position_embedding_type" else None) != wanted:
                raise ModelFileError(
                    f"config.json has {name} = {values.get(name)!r}, this encoder computes {wanted!r} only."
                )
        if values.get("is_decoder"):
            raise ModelFileError(
                "config.json has is_decoder = true, by which a token sees only those before it; in this encoder it "
                "sees all. If the model was trained without that, set is_decoder to false; otherwise take another."
            )
        try:
            sizes: dict[str, Any] = {size: values[name] for size, name in family.sizes.items()}
            sizes["norm_eps"] = float(values["layer_norm_eps"]) if family.norm_eps is None else family.norm_eps
            sizes["positions"] -= family.skipped_positions(values)
            config = cls(**sizes)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelFileError(f"config.json cannot be used: {error!r}.") from error
        if pooling is None:
            return config
        return replace(config, pooling=_pooling(json_object(pooling, pooling_name), config.width, pooling_name))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShallowConfig(EncoderConfig):
    """Sizes of a dense student with fewer layers than its parent, each of the same shape as the parent's.

    Attributes:
        parent_layers: layers of the parent.

    Raises:
        ModelFileError: a size is out of range, or there are no fewer layers.
    """

    parent_layers: int

    kind: ClassVar[str] = "shallow"

    def __post_init__(self) -> None:
        EncoderConfig.__post_init__(self)  # super() does not work in a class with slots
        if type(self.parent_layers) is not int or not self.layers < self.parent_layers <= MOST_LAYERS:
            raise ModelFileError(
                f"The encoder's parent_layers are {self.parent_layers!r}; they must be more than its {self.layers} "
                f"layers, {MOST_LAYERS} at most."
            )

    @property
    def active_frac(self) -> float:
        """Share of the parent's layer parameters that work: of its layers, as each has the same number."""
        return self.layers / self.parent_layers


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutedConfig(_Config):
    """Shape of a routed encoder and the shares of routed heads and experts that each budget allows.

    Attributes:
        base: sizes of the parent; `base.layers` counts the parent's layers.
        kept: layers of the parent that this encoder has, ascending, from 0.
        shared_heads: heads of each layer that always work; the others are routed.
        shared_neurons: neurons of each layer's feed-forward part that always work.
        experts: experts of each layer.
        expert_width: neurons of one expert.
        expert_mode: "token" chooses experts for each token, "sequence" for each text.
        quorum: by token, an expert works in a text only if at least this many of its tokens want it.
        budgets: shares of the parent's layer parameters that may work for a text on average, ascending; the last one
            lets everything work that is there.
        head_shares: share of the routed heads that work on average, by budget.
        expert_shares: share of the experts that work on average, by budget.

    Raises:
        ModelFileError: a value is out of its range, or two do not fit.
    """

    base: EncoderConfig
    kept: tuple[int, ...]
    shared_heads: int
    shared_neurons: int
    experts: int
    expert_width: int
    expert_mode: str
    quorum: int
    budgets: tuple[float, ...]
    head_shares: tuple[float, ...]
    expert_shares: tuple[float, ...]

    kind: ClassVar[str] = "routed"

    def __post_init__(self) -> None:
        if not self.kept or list(self.kept) != sorted(set(self.kept) & set(range(self.base.layers))):
            raise ModelFileError(
                f"The layers to keep are {list(self.kept)}; name some of 0 to {self.base.layers - 1}, ascending."
            )
        for name, least in (
            ("shared_heads", 0),
            ("shared_neurons", 0),
            ("experts", 2),
            ("expert_width", 1),
            ("quorum", 1),
        ):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= LARGEST:
                raise ModelFileError(f"The routed encoder's {name} is {value!r}; it must be from {least} to {LARGEST}.")
        if self.routed_heads < 1:
            raise ModelFileError(f"shared_heads is {self.shared_heads} of {self.base.heads}; one at least is routed.")
        neurons = self.shared_neurons + self.experts * self.expert_width
        if neurons != self.base.ffn_width:
            raise ModelFileError(
                f"{self.shared_neurons} shared neurons and {self.experts} experts of {self.expert_width} are {neurons} "
                f"neurons; the parent has {self.base.ffn_width}."
            )
        if self.expert_mode not in EXPERT_MODES:
            raise ModelFileError(f"expert_mode is {self.expert_mode!r}; it must be one of {', '.join(EXPERT_MODES)}.")
        if not self.budgets or list(self.budgets) != sorted(set(self.budgets)):
            raise ModelFileError(f"The budgets are {list(self.budgets)}; they must ascend.")
        for name in ("budgets", "head_shares", "expert_shares"):
            values = getattr(self, name)
            if len(values) != len(self.budgets) or not all(0 <= value <= 1 for value in values):
                raise ModelFileError(f"{name} is {list(values)}; one share of 0 to 1 per budget is needed.")
        if self.head_shares[-1] != 1 or self.expert_shares[-1] != 1:
            raise ModelFileError("The last budget must let all heads and experts work.")

    @property
    def routed_heads(self) -> int:
        """Heads of each layer that the router may leave out."""
        return self.base.heads - self.shared_heads

    @property
    def head_params(self) -> int:
        """Parameters of one attention head: its slices of the query, key, value and output maps."""
        return 4 * self.base.width * self.base.head_width + 3 * self.base.head_width

    @property
    def expert_params(self) -> int:
        """Parameters of one expert."""
        return self.expert_width * (2 * self.base.width + 1)

    @property
    def fixed_params(self) -> int:
        """Parameters of one layer that always work: shared parts, output biases, normalisations, both routers."""
        width = self.base.width
        routers = (width + 1) * (self.routed_heads + self.experts)
        shared = self.shared_heads * self.head_params + self.shared_neurons * (2 * width + 1)
        return shared + 2 * width + 4 * width + routers

    @property
    def parent_layer_params(self) -> int:
        """Parameters of all layers of the dense parent: what shares of layer parameters refer to."""
        base = self.base
        attention = 4 * base.width**2 + 4 * base.width
        feed_forward = 2 * base.width * base.ffn_width + base.ffn_width + base.width
        return base.layers * (attention + feed_forward + 4 * base.width)

    def active_params(self, heads: float, experts: float) -> float:
        """Layer parameters that work with this many routed heads and experts per layer."""
        return len(self.kept) * (self.fixed_params + heads * self.head_params + experts * self.expert_params)

    def active_share(self, head_share: float, expert_share: float) -> float:
        """Share of the parent's layer parameters that work at these shares of routed heads and experts."""
        active = self.active_params(head_share * self.routed_heads, expert_share * self.experts)
        return active / self.parent_layer_params

    @property
    def default_active(self) -> float:
        """The budget where none is asked for: `DEFAULT_ACTIVE`, or everything where there is no such."""
        return DEFAULT_ACTIVE if DEFAULT_ACTIVE in self.budgets else self.budgets[-1]

    def budget(self, active: float) -> int:
        """Place of a budget in the list.

        Raises:
            OptionError: the encoder has no such budget.
        """
        if active not in self.budgets:
            known = ", ".join(f"{budget:g}" for budget in self.budgets)
            raise OptionError(f"There is no budget active={active!r}. This encoder has: {known}.")
        return self.budgets.index(active)

    @classmethod
    def parse(cls, content: str) -> Self:
        """The inverse of `to_json`.

        Raises:
            ModelFileError: the text is no valid configuration.
        """
        values = dict(json_object(content.encode("utf-8", "surrogatepass"), "the configuration of the routed encoder"))
        try:
            base = EncoderConfig(**values.pop("base"))
            parts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
            return cls(base=base, **parts)
        except (KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"The configuration of the routed encoder cannot be used: {error!r}.") from error


def _pooling(pool: Mapping[str, Any], width: object, name: str) -> str:
    on = [name for name, value in pool.items() if name.startswith("pooling_mode_") and value is True]
    asked = pool.get("pooling_mode", on)  # one name, where sentence-transformers once had a flag for each
    asked = asked[0] if isinstance(asked, list) and len(asked) == 1 else asked
    if not isinstance(asked, str) or asked not in _POOLINGS:
        raise ModelFileError(f"{name} asks for {asked}, this encoder computes the mean of tokens or [CLS] only.")
    stated = pool.get("embedding_dimension", pool.get("word_embedding_dimension"))
    if stated != width:
        raise ModelFileError(f"{name} is for width {stated!r}, config.json says {width}.")
    return _POOLINGS[asked]


def json_object(content: bytes, name: str) -> Mapping[str, Any]:
    """The object in a JSON file, which messages call so. Raises: ModelFileError."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{name} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{name} holds {type(value).__name__}, expected an object.")
    return cast("dict[str, Any]", value)
