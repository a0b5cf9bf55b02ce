"""From rows of the lake to what labeling functions see: one `ItemBatch` per batch, with an encoder that remembers."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from warehouse import DataError, SettingsError
from warehouse.queries.reader import list_column_to_matrix
from weak_labels.functions.call import MISSING, WHOLE_FUNCTION, Fault, Outcome
from weak_labels.functions.types import Ask, Encode, ItemBatch, LabelingFunction, Matrix


def check_services(functions: Sequence[LabelingFunction], encode: Encode | None, ask: Ask | None = None) -> None:
    """Refuse functions that need an encoder or a language model where there is none.

    Raises:
        SettingsError: names the function and the way out.
    """
    for function in functions:
        if function.exemplars and encode is None:
            raise SettingsError(
                f"The labeling function '{function.name}' needs its exemplars embedded, but no encoder was given. "
                "Pass encode=."
            )
        if function.kind == "prompt" and ask is None:
            raise SettingsError(
                f"The labeling function '{function.name}' asks a language model, but none is configured. Name one "
                "under [weak_labels.prompt] url in siftline.toml, or remove the function."
            )


def remember_encode(encode: Encode | None) -> Encode | None:
    """An `encode` that embeds each list of exemplars only once."""
    if encode is None:
        return None
    known: dict[tuple[str, ...], Matrix] = {}

    def remembered(texts: Sequence[str]) -> Matrix:
        if (key := tuple(texts)) not in known:
            known[key] = encode(texts)
        return known[key]

    return remembered


def refused_exemplars(function: LabelingFunction, encode: Encode | None, items: int) -> Outcome | None:
    """Embed a function's exemplars before it is called, as what `encode` raises is seldom about the function.

    Returns:
        None where it can be called; else the outcome on that many items, in which the encoder refuses the exemplars.

    Raises:
        Exception: what `encode` raised besides, such as that its server is away.
    """
    try:
        if function.exemplars and encode is not None:
            encode(function.exemplars)
        return None
    except DataError as error:
        return Outcome(np.full(items, MISSING, np.int32), [Fault(WHOLE_FUNCTION, "raised", str(error))])


def to_batch(table: pa.Table, classes: Sequence[str], encode: Encode | None, ask: Ask | None = None) -> ItemBatch:
    """A batch of the columns item_id, content, metadata and, where it is there, vector; zeros where one is missing."""
    columns = {name: pa.concat_arrays(table.column(name).chunks) for name in table.column_names}
    vectors: Matrix | None = None
    if "vector" in columns:
        with_vector = np.flatnonzero(columns["vector"].is_valid().to_numpy(zero_copy_only=False))
        found = list_column_to_matrix(pa.chunked_array([columns["vector"].drop_null()]), what="vector")
        vectors = np.zeros((table.num_rows, found.shape[1]), np.float32)
        vectors[with_vector] = found
    return ItemBatch(
        item_ids=columns["item_id"],
        texts=columns["content"],
        metadata=columns["metadata"],
        classes=classes,
        vectors=vectors,
        encode=encode,
        ask=ask,
    )
