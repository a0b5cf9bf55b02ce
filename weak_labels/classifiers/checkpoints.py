"""What weak labels taught an end model, kept between runs: while they are the same, people's labels alone move it on.

A file is only a cache: it is believed where it says that it was made from exactly this, and one that is missing,
damaged, of before or cannot be written costs time. What is read has the bits that were learned.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from warehouse import SettingsError
from warehouse.files.array_cache import read_arrays, write_arrays
from weak_labels.classifiers.linear import EndModel, Hold, Vectors
from weak_labels.classifiers.mlp import HiddenLayer

FORMAT = 1
LIBRARIES = ("faiss-cpu", "numpy", "scikit-learn", "scipy")
"""Whose arithmetic a fit is; another version may give other bits."""


@dataclass(frozen=True, slots=True)
class KeptModels:
    """The files of one project, one per model.

    Attributes:
        folder: where they are.
        made_from: hash of all that decides the models.
    """

    folder: Path
    made_from: str

    @classmethod
    def of(cls, folder: Path, vectors: Vectors, content: str) -> Self:
        """Models of some vectors.

        Args:
            folder: where the files are; made when it is needed.
            vectors: that are learned from [N, D].
            content: hash of all else that decides a model, the versions of the code among it.
        """
        digest = hashlib.sha256(json.dumps([FORMAT, [version(name) for name in LIBRARIES], content]).encode())
        digest.update(np.ascontiguousarray(vectors).data)
        return cls(folder, digest.hexdigest())

    def below(self, name: str) -> Self:
        """Those of a part, such as a class."""
        return replace(self, folder=self.folder / name)

    def model(self, name: str, learn: Callable[[], EndModel | None]) -> EndModel | None:
        """A model that was kept, or else one that is learned now and kept."""
        path = self.folder / f"{name}.npz"
        found = self._read(path)
        if found is None and (found := learn()):
            with contextlib.suppress(SettingsError, OSError):  # the next run then learns again
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_arrays(path, {"made_from": self.made_from, **arrays_of(found)})
            return found
        return found

    def _read(self, path: Path) -> EndModel | None:
        arrays = read_arrays(path)
        try:
            return model_of(arrays) if str(arrays["made_from"]) == self.made_from else None
        except (KeyError, TypeError, ValueError):
            return None


def model_of(arrays: Mapping[str, Any]) -> EndModel:
    """The model that `arrays_of` gave.

    Raises:
        KeyError, TypeError, ValueError: these are the arrays of none.
    """
    weights, intercept, taught = (arrays[name] for name in ("weights", "intercept", "taught"))
    hidden = HiddenLayer(arrays["units"], arrays["offsets"]) if "units" in arrays else None
    hold, temperature = Hold(*arrays["hold"].tolist()), float(arrays["temperature"])
    return EndModel(weights, intercept, taught, hold, temperature, hidden)


def arrays_of(model: EndModel) -> dict[str, Any]:
    """All of a model, by name."""
    layer = {"units": model.hidden.weights_EH, "offsets": model.hidden.offset_H} if model.hidden else {}
    return {
        "weights": model.weights_DC,
        "intercept": model.intercept_C,
        "taught": model.taught_C,
        "hold": np.array(astuple(model.hold)),
        "temperature": np.array(model.temperature),
        **layer,
    }
