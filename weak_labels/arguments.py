"""What a builder or a configuration was given, checked in words: an error of Python's own says nothing of the way out.

What is given is `object` here, since callers of a file of labeling functions are checked by nobody before.
"""

from collections.abc import Collection, Iterable, Mapping, Set
from typing import Any, cast

import numpy as np

from warehouse import SettingsError


def text(given: object, what: str) -> str:
    """A text.

    Raises:
        SettingsError: it is none.
    """
    if not isinstance(given, str):
        raise SettingsError(f"{what} is {given!r}; give it as text, in quotes.")
    return given


def texts(given: object, what: str, where: str = "") -> list[str]:
    """Texts in one order: a set has another one in each process, and a version would change with it.

    Args:
        given: the list of them.
        what: their name, such as "words".
        where: what a message begins with, such as "keywords('a', ...): ".

    Raises:
        SettingsError: they are a single text, no list, or one of them is no text.
    """
    if isinstance(given, str):
        raise SettingsError(f"{where}{what} must be a list, such as [{given!r}].")
    if not isinstance(given, Iterable):
        raise SettingsError(f"{where}{what} must be a list of texts, not {given!r}.")
    checked = [text(member, f"{where}one of the {what}") for member in cast("Iterable[object]", given)]
    return sorted(checked) if isinstance(given, Set) else checked


def by_name(given: object, what: str, example: str) -> dict[Any, Any]:
    """A dict.

    Raises:
        SettingsError: it is none.
    """
    if not isinstance(given, Mapping):
        raise SettingsError(f"{what} must be a dict, such as {example}, not {given!r}.")
    return dict(cast("Mapping[Any, Any]", given))


def number(given: object, what: str) -> None:
    """Refuse what is no number.

    Raises:
        SettingsError: it is none.
    """
    if not isinstance(given, int | float | np.integer | np.floating) or isinstance(given, bool):
        raise SettingsError(f"{what} is {given!r}; give a number.")


def whole(given: object, what: str) -> None:
    """Refuse what is no whole number.

    Raises:
        SettingsError: it is none.
    """
    if not isinstance(given, int | np.integer) or isinstance(given, bool):
        raise SettingsError(f"{what} is {given!r}; give a whole number.")


def check_classes(given: object) -> None:
    """Refuse what are no names of a project's classes.

    Raises:
        SettingsError: they are no list, in no order, fewer than two, no texts, or one is there twice.
    """
    if isinstance(given, str | Set) or not isinstance(given, Collection):
        raise SettingsError(f"classes must be a list of names, in the order of their numbers, not {given!r}.")
    classes = texts(cast("Collection[object]", given), "classes")
    if len(classes) < 2 or len(set(classes)) != len(classes):
        raise SettingsError(f"classes is {classes}; name at least two, each once.")
