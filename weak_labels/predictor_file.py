"""The file in which what the last run of the end model learned is kept, for texts that are no items.

As those of `kept_models` it is only a cache: it is believed where it says that the model in force was made from exactly
what it was made from, and holds numbers and text only.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from warehouse.array_file import read_arrays, write_arrays
from weak_labels.classifier import VERSION, EndModelConfig
from weak_labels.feature_map import FeatureMap
from weak_labels.kept_models import arrays_of, model_of
from weak_labels.one_vs_rest import OneVsRest
from weak_labels.self_training import Words
from weak_labels.sight import Sight
from weak_labels.votes_beside import Weighed

if TYPE_CHECKING:
    from weak_labels.predictor import Predictor

FORMAT = 2
NAME = "learned.npz"


def read_predictor(folder: Path, made_from: str | None, config: EndModelConfig) -> dict[str, Any] | None:
    """The attributes of the `Predictor` that is kept, but `config`; None where none is, or another.

    Args:
        folder: where it is.
        made_from: what the model in force was made from; None where there is none.
        config: the end model.
    """
    arrays = read_arrays(folder / NAME)
    try:
        if made_from is None or str(arrays["made_from"]) != made_from or str(arrays["by"]) != _by(config):
            return None
        told = json.loads(arrays["told"].tobytes())
        models = [model_of(_part(arrays, f"model_{number}.")) for number in range(told["models"])]
        weighed = tuple(Weighed(**of) if of else None for of in told["weighed"])
        views = tuple(slice(*ends) for ends in told["views"])
        words = [(kind, names, arrays[f"words_{kind}"]) for kind, names in told["words"]]
        return {
            "sight": Sight(
                feature_map=FeatureMap(arrays["landmarks"], arrays["stretch"]),
                words=Words.of_parts(words) if words else None,
                as_they_are=told["as_they_are"],
            ),
            "model": OneVsRest(tuple(models), weighed, views) if config.multi_label else models[0],
            "shares": arrays["shares"],
            **{name: told[name] for name in ("label_model", "gold_labels", "weak_labels", "answers")},
        }
    except (KeyError, TypeError, ValueError, IndexError):
        return None


def write_predictor(folder: Path, made_from: str, predictor: "Predictor") -> None:
    """Keep what was learned, in the place of what was kept before.

    Raises:
        SettingsError, OSError: the file cannot be written.
    """
    model = predictor.model
    several = isinstance(model, OneVsRest)
    models, weighed, views = (model.models, model.weighed, model.views) if several else ((model,), (), ())
    words = predictor.sight.words.parts() if predictor.sight.words else []
    told = {
        "models": len(models),
        "weighed": [of and {"offset": of.offset, "end_model": of.end_model, "votes": of.votes} for of in weighed],
        "views": [(view.start, view.stop) for view in views],
        "as_they_are": predictor.sight.as_they_are,
        "words": [(kind, names) for kind, names, _ in words],
        "label_model": predictor.label_model,
        "gold_labels": predictor.gold_labels,
        "weak_labels": predictor.weak_labels,
        "answers": predictor.answers,
    }
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    arrays: dict[str, Any] = {
        "made_from": made_from,
        "by": _by(predictor.config),
        "told": np.frombuffer(json.dumps(told).encode(), np.uint8),
        "landmarks": predictor.sight.feature_map.landmarks_LD,
        "stretch": predictor.sight.feature_map.stretch_DD,
        "shares": predictor.shares,
    }
    for number, part in enumerate(models):
        arrays |= {f"model_{number}.{name}": array for name, array in arrays_of(part).items()}
    arrays |= {f"words_{kind}": weights for kind, _, weights in words}
    write_arrays(folder / NAME, arrays)


def _by(config: EndModelConfig) -> str:
    """What reads the file: it speaks as the code and the settings of now do."""
    return json.dumps([FORMAT, VERSION, config.params()])


def _part(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
