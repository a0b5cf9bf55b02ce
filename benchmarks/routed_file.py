"""Which file of the routed encoder a figure is of: a page says where it is not the one that ships."""

from collections.abc import Mapping
from typing import Any

from engine.weights.shipped import shipped

EARLIER = "routed from an earlier file of the encoder"
_FOUR_LAYERS = "732c3605134c3045e17e2c1f445127c16a77d49b7837bd794f8869bbb2fb48d6"
_TWO_LAYERS = "12b33f63998c1fb6865b3a9529e895ab718ec7ffc643d713358b679f70566b3c"
_AT_COMMIT = {"52e635ff35c52f67c061a498e17c0efcf6080700": _TWO_LAYERS}
"""The file at a commit, where the figures do not say it; at the other such commits it was that of four layers."""


def routed_file() -> dict[str, str]:
    """The sha256 of the file that ships, to note with figures."""
    return {"routed": shipped("routed")[1]}


def earlier(measured: Mapping[str, Any]) -> bool:
    """Whether figures that were measured so are of another file than the one that ships.

    Args:
        measured: commit, and where it was noted `routed`.
    """
    return measured.get("routed", _AT_COMMIT.get(measured["commit"], _FOUR_LAYERS)) != routed_file()["routed"]
