"""Labeling functions and what they see: `LabelingFunction` and `ItemBatch`.

A function maps a batch of items to votes, at once over whole columns or, for Snorkel's objects, row by row. Class
names become class numbers through the batch, so that a function is written once and serves any order of classes.
Snorkel is never imported here: it costs two seconds, and only a file that uses it has to pay them.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse import SettingsError
from warehouse.text import perhaps_meant
from weak_labels.functions import arguments
from weak_labels.functions.version import fingerprint

ABSTAIN = -1
"""The vote of a function that has nothing to say about an item."""

Votes = npt.NDArray[np.int32]
Matrix = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Matrix]
"""Texts to unit vectors [N, D] float32. `DataError` says that it refuses some of them, for good."""

Ask = Callable[..., Sequence[object]]
"""Model, instruction, texts and `stop` (an event, once set nothing more is asked) to a language model's answers; see
`weak_labels.prompting.client.PromptClient.ask`."""


class ItemBatch:
    """Items as a labeling function sees them: columns of N items, parsed when first asked for.

    Args:
        item_ids: Arrow string array [N], as `pa.array(frame["id"])` makes it, also of categories; whole numbers become
            text. So are texts and metadata.
        texts: string array [N], the items' contents, none missing.
        metadata: string array [N] of JSON objects.
        classes: class names; the place of a name is its class number.
        vectors: unit vectors [N, D] float32, or None when no function of this run needs them.
        encode: embeds further texts (exemplars) with the same encoder, or None.
        ask: asks a language model, or None when none is configured.

    Raises:
        SettingsError: a column is no Arrow array of texts, or has another length than `item_ids`, or classes are no
            list of names.
    """

    def __init__(
        self,
        *,
        item_ids: pa.Array,
        texts: pa.Array,
        metadata: pa.Array,
        classes: Sequence[str],
        vectors: Matrix | None = None,
        encode: Encode | None = None,
        ask: Ask | None = None,
    ) -> None:
        arguments.check_classes(classes)
        item_ids, texts = _text_column(item_ids, "item_ids"), _text_column(texts, "texts")
        metadata = _text_column(metadata, "metadata", nulls=True)
        if vectors is not None:
            vectors = arguments.as_array(vectors, "The vectors of a batch")
        columns: dict[str, Any] = {"item_ids": item_ids, "texts": texts, "metadata": metadata, "vectors": vectors}
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if len(set(lengths.values())) > 1:
            raise SettingsError(f"The columns of a batch have the lengths {lengths}; give one entry for each item.")
        self.id_array = item_ids
        self.text_array = texts
        self.metadata_array = metadata
        self.classes = tuple(classes)
        self.encode = encode
        self.ask = ask
        self.limit_s = 0.0  # seconds for the call at hand, for functions that break off by themselves; 0 for no limit
        self._vectors = None if vectors is None else vectors.view()
        if self._vectors is not None:
            self._vectors.setflags(write=False)

    def __len__(self) -> int:
        return len(self.id_array)

    if not TYPE_CHECKING:  # by it every name would be one that a batch has

        def __getattr__(self, name: str) -> NoReturn:  # only asked for what is not there
            raise AttributeError(
                f"a batch has no {name!r}; its columns are texts, item_ids, metadata, and vectors if asked for"
            )

    @cached_property
    def item_ids(self) -> list[str]:
        """Ids of the items [N]."""
        return self.id_array.to_pylist()

    @cached_property
    def texts(self) -> list[str]:
        """Contents of the items [N]; `text_array` holds the same for pyarrow's functions."""
        return self.text_array.to_pylist()

    @cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """Further fields of the items [N]."""
        return [json.loads(text) if text else {} for text in self.metadata_array.to_pylist()]

    @property
    def vectors(self) -> Matrix:
        """Unit vectors [N, D] float32, read-only.

        Raises:
            SettingsError: the function did not say that it needs them.
        """
        if self._vectors is None:
            raise SettingsError("This batch has no vectors; the function must ask for them: @vectorized(vectors=True)")
        return self._vectors

    def class_id(self, name: str) -> int:
        """Number of a class.

        Raises:
            SettingsError: there is no such class.
        """
        if name not in self.classes:
            near = perhaps_meant(name, self.classes)
            raise SettingsError(f"There is no class {name!r}{near}; the classes are {', '.join(self.classes)}.")
        return self.classes.index(name)

    def take(self, rows: npt.NDArray[np.int64]) -> "ItemBatch":
        """The items at some rows, sharing nothing that a function could change."""
        index = pa.array(rows)
        return ItemBatch(
            item_ids=self.id_array.take(index),
            texts=self.text_array.take(index),
            metadata=self.metadata_array.take(index),
            classes=self.classes,
            vectors=None if self._vectors is None else self._vectors[rows],
            encode=self.encode,
            ask=self.ask,
        )

    def was_changed(self) -> bool:
        """Whether the lists that were handed out differ from the columns they came from."""
        handed_out = self.__dict__
        fresh = ItemBatch(
            item_ids=self.id_array, texts=self.text_array, metadata=self.metadata_array, classes=self.classes
        )
        return any(
            name in handed_out and not _equal(handed_out[name], getattr(fresh, name))
            for name in ("item_ids", "texts", "metadata")
        )


def _text_column(column: Any, name: str, *, nulls: bool = False) -> Any:
    """A column of a batch as texts that all functions understand; untyped, as pyarrow is."""
    if not isinstance(column, pa.Array | pa.ChunkedArray):
        raise SettingsError(f"{name} of a batch are {type(column).__name__}; give an Arrow array: pa.array(...).")
    given: Any = column
    kind = given.type.value_type if pa.types.is_dictionary(given.type) else given.type
    numbers = name == "item_ids" and pa.types.is_integer(kind)
    if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()) and not numbers:
        each = "a JSON object for each item, as json.dumps makes it" if name == "metadata" else "text"
        raise SettingsError(f"{name} of a batch are {given.type}; give {each}.")
    if given.null_count and not nulls:
        raise SettingsError(
            f"{name} of a batch are missing for {given.null_count} of {len(given)} items; leave these out, or fill "
            'them: frame["text"].fillna("").'
        )
    return given if given.type in (pa.string(), pa.large_string()) else given.cast(pa.string())


def _equal(left: object, right: object) -> bool:
    # NaN differs from itself but not in print.
    return left == right or repr(left) == repr(right)


@dataclass(frozen=True, kw_only=True, repr=False)
class LabelingFunction:
    """A named rule that votes for a class, or abstains, on each item of a batch.

    Attributes:
        name: unique in its file; empty until the loader takes it from the variable.
        kind: keywords, regex, sql, nearest, cluster, model, prompt, vectorized or snorkel.
        version: hash of code and parameters; votes of another version are made again.
        made_of: what the version is a hash of, where that may still change: code reads its globals when it is called.
            Empty where it is loaded from a file.
        rule: (batch) -> votes of N items, or (row) -> one vote where `by_row`.
        description: what it says about the items, for reports.
        labels: classes that it votes for, checked when the file is loaded; empty when only its code knows.
        class_ids: class numbers that it votes for, where it knows numbers only; checked likewise.
        by_row: the rule takes one row, as Snorkel's do.
        uses_vectors: votes only on items that have a vector, and again when the encoder changes.
        source: file it was loaded from; None for one made in a running program.
        timeout_s: seconds for one call; None for the project's limit.
        exemplars: texts that it compares with; whoever calls it embeds them first.
        screen: pattern (RE2) without a match of which it abstains, so that many functions can be asked in one pass
            over a text; empty for none.

    Raises:
        SettingsError: a class is no text, or the time no number.
    """

    name: str
    kind: str
    version: str
    rule: Callable[..., Any]
    description: str = ""
    labels: tuple[str, ...] = ()
    class_ids: tuple[int, ...] = ()
    by_row: bool = False
    uses_vectors: bool = False
    source: Path | None = None
    timeout_s: float | None = None
    exemplars: tuple[str, ...] = ()
    screen: str = ""
    made_of: tuple[Any, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for label in self.labels:
            arguments.text(label, f"A class that a {self.kind} function votes for")
        if self.timeout_s is not None:
            arguments.number(self.timeout_s, f"timeout_s of a {self.kind} function")

    def __repr__(self) -> str:
        # A notebook shows it, and there may be ten thousand words in it.
        return f"<{self.kind} function {self.name!r}: {shorten(self.description, 100)!r}>"

    @property
    def can_fail(self) -> bool:
        """Whether it can leave faults on single items."""
        return self.is_python or self.kind in ("prompt", "cluster")

    @property
    def is_python(self) -> bool:
        """Whether it runs code that is not ours, which can raise, hang or vote out of range; it gets a process."""
        return self.kind in ("vectorized", "snorkel", "model", "sql")


def check_functions(functions: Sequence[Any], classes: Sequence[str], *, where: str) -> list[LabelingFunction]:
    """Refuse functions without a name, with one used twice or no time, or that vote for a class which does not exist.

    Args:
        functions: `LabelingFunction`s or Snorkel's own.
        classes: class names of the project.
        where: what a message begins with.

    Returns:
        The same as `LabelingFunction`s.

    Raises:
        SettingsError: names the function, what it says and what is known.
    """
    arguments.check_classes(classes)
    checked: list[LabelingFunction] = []
    names: set[str] = set()
    for given in functions:
        function = as_function(given, where)
        checked.append(function)
        if not function.name:
            raise SettingsError(f"{where}: a {function.kind} function has no name; give it name=.")
        if function.name in names:
            raise SettingsError(
                f"{where}: two labeling functions are named '{function.name}'. Rename one of them, or give it name=."
            )
        names.add(function.name)
        if function.timeout_s is not None and function.timeout_s <= 0:
            raise SettingsError(
                f"{where}: timeout_s of the labeling function '{function.name}' is {function.timeout_s:g}; it must be "
                "above 0, or left out for the project's."
            )
        unknown = [label for label in function.labels if label not in classes]
        if unknown:
            way_out = "Mend the name, or add the class to siftline.toml."
            if function.kind == "regex" and function.screen in classes:
                way_out = f"The class stands before the pattern: regex({function.screen!r}, {unknown[0]!r})"
            raise SettingsError(
                f"{where}: the labeling function '{function.name}' votes for '{unknown[0]}'"
                f"{perhaps_meant(unknown[0], classes)}; the classes are {', '.join(classes)}. {way_out}"
            )
        if function.class_ids and max(function.class_ids) >= len(classes):
            raise SettingsError(
                f"{where}: the labeling function '{function.name}' votes for class {max(function.class_ids)}, but the "
                f"project's {len(classes)} classes have the numbers 0 to {len(classes) - 1}. Fit it on class names."
            )
        for number in function.class_ids:
            if names_another(number, classes):
                raise SettingsError(
                    f"{where}: the labeling function '{function.name}' votes for class {number}, which is the number "
                    f"of '{classes[number]}' and the name of another class. Fit it on class names, as text."
                )
    return checked


def as_function(given: Any, where: str) -> LabelingFunction:
    """A function as a `LabelingFunction`, with the version of what its code refers to by now.

    Args:
        given: one, or one of Snorkel's.
        where: what a message begins with.

    Raises:
        SettingsError: it is none of these.
    """
    function = to_function(given, as_loaded=True)
    if function is None:
        raise SettingsError(
            f"{where}: {given!r} is no labeling function. Make one with keywords, regex, @vectorized(...) or "
            "another builder of weak_labels, or with Snorkel's @labeling_function()."
        )
    return function


def names_another(number: int, classes: Sequence[str]) -> bool:
    """Whether the number of a class is another one's name, as 0 and 1 of the classes -1, 0 and 1."""
    return classes[number] != str(number) and str(number) in classes


def is_function(thing: object) -> bool:
    """Whether a thing is a `LabelingFunction` or one of Snorkel's."""
    snorkel: Any = sys.modules.get("snorkel.labeling.lf.core")
    return isinstance(thing, LabelingFunction) or (snorkel is not None and isinstance(thing, snorkel.LabelingFunction))


def to_function(thing: object, *, as_loaded: bool) -> LabelingFunction | None:
    """The labeling function that a thing is, with the version of what its code refers to by now.

    Args:
        thing: anything, such as a variable of a module.
        as_loaded: see `fingerprint`.

    Returns:
        None where it is neither a `LabelingFunction` nor one of Snorkel's.
    """
    if not is_function(thing):
        return None
    if isinstance(thing, LabelingFunction):
        made_of = thing.made_of
        return dataclasses.replace(thing, version=fingerprint(*made_of, as_loaded=as_loaded)) if made_of else thing
    # Snorkel keeps the function and what surrounds it in private fields and offers no other way to them.
    parts: dict[str, Any] = vars(thing)
    code: Any = parts.get("_f")
    return LabelingFunction(
        name=str(parts["name"]),
        kind="snorkel",
        version=fingerprint(type(thing), code, parts.get("_resources"), parts.get("_pre"), as_loaded=as_loaded),
        rule=cast(Callable[..., Any], thing),
        description=(getattr(code, "__doc__", None) or "").strip(),
        by_row=True,
    )
