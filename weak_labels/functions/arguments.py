"""What a builder or a configuration was given, checked in words: an error of Python's own says nothing of the way out.

What is given is `object` here, since callers of a file of labeling functions are checked by nobody before.
"""

from collections.abc import Collection, Iterable, Mapping, Set
from contextlib import suppress
from typing import Any, cast

import numpy as np
import numpy.typing as npt

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


def as_array(values: Any, what: str) -> npt.NDArray[Any]:
    """An array of what is given.

    Args:
        values: an array or a list.
        what: their name, to begin a message with.

    Raises:
        SettingsError: its rows have unequal lengths, or a part of it is masked.
    """
    if np.ma.is_masked(values):
        raise SettingsError(f"{what} are masked in part; fill them before, as with votes.filled(-1).")
    try:
        return np.asarray(values)
    except ValueError as error:
        raise SettingsError(f"{what} are no array: their rows have unequal lengths.") from error


def whole_numbers(values: Any, what: str) -> npt.NDArray[np.int64]:
    """Numbers of classes, items or functions in any form that holds them exactly, as int64.

    Args:
        values: an array or a list.
        what: their name, to begin a message with.

    Raises:
        SettingsError: one of them is no whole number; truth values, text and what is masked are none.
    """
    given = as_array(values, what)
    if given.dtype.kind in "iu":
        return given.astype(np.int64, copy=False)
    if not given.size:
        return given.astype(np.int64)
    if given.dtype.kind in "fO":
        with suppress(TypeError, ValueError), np.errstate(invalid="ignore"):
            numbers = given.astype(np.float64)
            whole = numbers.astype(np.int64)
            if (whole == numbers).all():
                return whole
    cells = given.reshape(-1).tolist()
    odd = next((cell for cell in cells if not _is_whole(cell)), cells[0])
    raise SettingsError(
        f"{what} hold {odd!r}, which is no whole number; give class numbers, and -1 where there is none."
    )


def finite(values: Any, what: str, dimensions: int) -> npt.NDArray[Any]:
    """Numbers in any form that holds them, as an array of floats; what is one already stays as it is.

    Args:
        values: an array, a frame or a list.
        what: their name, to begin a message with.
        dimensions: how many it must have.

    Raises:
        SettingsError: they are no numbers, of another number of dimensions, or one is NaN or infinite.
    """
    given = as_array(values, what)
    if given.dtype.kind in "OUSMm":
        try:
            given = given.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"{what} are no numbers: {error}.") from error
    if given.ndim != dimensions:
        form = "a row of numbers for each item" if dimensions == 2 else "one number for each item"
        raise SettingsError(f"{what} have shape {given.shape}; give {form}.")
    with np.errstate(invalid="ignore"):  # a row's sum is finite where all of it is, and takes no second matrix
        sums = given.sum(axis=1, dtype=np.float64) if dimensions == 2 else given
    bad = np.flatnonzero(~np.isfinite(sums))
    if bad.size:
        raise SettingsError(
            f"{what} of {bad.size} of {len(given)} items are not finite, the first is item {bad[0]} (counted from 0). "
            "Leave these items out, or mend them."
        )
    return given if given.dtype.kind == "f" else given.astype(np.float64)


def _is_whole(cell: object) -> bool:
    return isinstance(cell, int | float) and not isinstance(cell, bool) and cell % 1 == 0
