"""Selection strategies by name: those of this package, and others by the entry point group `siftline.strategies`."""

from importlib.metadata import entry_points
from typing import cast

from active.strategies.badge import pick_badge
from active.strategies.base import Pick, Quota, Situation, Strategy
from active.strategies.contrastive import pick_contrastive
from active.strategies.core_set import pick_core_set
from active.strategies.entropy import pick_entropy
from active.strategies.k_means import pick_k_means
from active.strategies.knn_shapley import pick_knn_shapley
from active.strategies.margin import pick_margin
from active.strategies.patron import pick_patron
from active.strategies.probcover import pick_probcover
from active.strategies.random import pick_random
from active.strategies.typiclust import pick_typiclust
from active.strategies.value import pick_value
from warehouse import SettingsError

ENTRY_POINTS = "siftline.strategies"
STRATEGIES: dict[str, Strategy] = {
    "badge": pick_badge,
    "contrastive": pick_contrastive,
    "core-set": pick_core_set,
    "entropy": pick_entropy,
    "k-means": pick_k_means,
    "knn-shapley": pick_knn_shapley,
    "margin": pick_margin,
    "patron": pick_patron,
    "probcover": pick_probcover,
    "random": pick_random,
    "typiclust": pick_typiclust,
    "value": pick_value,
}

SINGLE_LABEL = ("badge", "contrastive", "knn-shapley", "patron")
"""Those that need exactly one class per item."""


def find_strategy(name: str) -> Strategy:
    """The strategy of a name; one of this package goes before an installed one of the same name.

    Raises:
        SettingsError: there is none, or the installed one is no function or cannot be loaded.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        known = ", ".join(sorted({*STRATEGIES, *installed}))
        raise SettingsError(f"There is no selection strategy '{name}'; known are {known}.")
    try:
        found = installed[name].load()
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"The strategy '{name}' ({installed[name].value}) cannot be loaded: {error}.") from error
    if not callable(found):
        raise SettingsError(f"The strategy '{name}' ({installed[name].value}) is {type(found).__name__}, no function.")
    return cast(Strategy, found)


__all__ = ["ENTRY_POINTS", "SINGLE_LABEL", "STRATEGIES", "Pick", "Quota", "Situation", "Strategy", "find_strategy"]
