"""What labeling functions that have not voted yet would do: `preview` calls them on some items and writes nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from warehouse import Lake
from weak_labels.apply import VoteConfig
from weak_labels.calls import MAX_TIMEOUTS, Limits, call_function
from weak_labels.functions import Ask, Encode, check_functions
from weak_labels.item_batches import check_services, refused_exemplars, remember_encode, to_batch
from weak_labels.reach import item_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """An item that a function votes on, with the class."""

    item_id: str
    label: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FunctionPreview:
    """What one function would do.

    Attributes:
        items: items it was called on.
        hits: items on which it did not abstain.
        coverage: hits / items, 0 to 1.
        polarity: classes it voted for, the most frequent first.
        faults: items on which it failed.
        first_fault: the first of them in words; empty without any.
        examples: some of the hits.
    """

    name: str
    items: int
    hits: int
    coverage: float
    polarity: tuple[str, ...]
    faults: int
    first_fault: str
    examples: tuple[Example, ...]


def preview(
    lake: Lake,
    functions: Sequence[Any],
    config: VoteConfig,
    *,
    items: int | None = 100,
    examples: int = 3,
    encode: Encode | None = None,
    ask: Ask | None = None,
) -> list[FunctionPreview]:
    """Call functions on some items of the train split and write nothing.

    The functions run in this process; one that hangs is broken off after `config.timeout_s` in the main thread only,
    and one made by `sql` only before DuckDB's next chunk of 2,048 items. After three such calls,
    or where it fails as a whole, it is not called any more.

    Args:
        lake: the warehouse; read-only will do.
        functions: functions to try, `LabelingFunction`s or Snorkel's own.
        config: settings of the vote stage.
        items: how many items, the same for equal data and spread over all of it; None for all.
        examples: how many hits of each function to show.
        encode: embeds exemplars; needed by `nearest`.
        ask: asks a language model; needed by `prompt`, and paid for.

    Raises:
        SettingsError: a `nearest` function and no `encode`, a `prompt` function and no `ask`, or what `vote` refuses.
    """
    functions = check_functions(functions, config.classes, where="preview")
    check_services(functions, encode, ask)
    needs_vectors = any(function.uses_vectors for function in functions)
    vector = ", x.vector" if needs_vectors else ""
    join = (
        "LEFT JOIN vectors x ON x.item_id = i.item_id AND x.encoder_id = ? AND x.content_hash = i.content_hash"
        if needs_vectors
        else ""
    )
    limit = "" if items is None else f"LIMIT {int(items)}"
    # md5 spreads the choice over the data without a seed that somebody would have to keep.
    sql = f"""
        WITH chosen AS (SELECT item_id FROM items WHERE split = 'train' ORDER BY md5(item_id), item_id {limit})
        SELECT i.item_id, i.content, i.metadata{vector} FROM items i
        JOIN chosen USING (item_id) {join} ORDER BY i.item_id
    """
    hits: dict[str, Counter[int]] = {function.name: Counter() for function in functions}
    called: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    timeouts: Counter[str] = Counter()
    first_fault: dict[str, str] = {}
    stopped: set[str] = set()
    shown: dict[str, list[Example]] = {function.name: [] for function in functions}
    encode = remember_encode(encode)
    with lake.read() as reader:
        params = [config.encoder_id] if needs_vectors else []
        for table in item_tables(reader, sql, params, rows=config.batch_items):
            batch, with_vector = to_batch(table, config.classes, encode, ask)
            for function in functions:
                rows = with_vector if function.uses_vectors else np.arange(len(batch))
                if not len(rows) or function.name in stopped:
                    continue
                part = batch.take(rows)
                limits = Limits(timeout_s=config.timeout_s, max_timeouts=MAX_TIMEOUTS - timeouts[function.name])
                outcome = refused_exemplars(function, encode, len(rows)) or call_function(function, part, limits)
                voted = np.flatnonzero(outcome.votes >= 0)
                hits[function.name].update(outcome.votes[voted].tolist())
                called[function.name] += outcome.asked
                faults[function.name] += len(outcome.faults)
                timeouts[function.name] += outcome.timeouts
                for fault in outcome.faults[:1]:
                    first_fault.setdefault(function.name, f"{fault.fault}: {fault.detail}")
                if outcome.over(limits):
                    stopped.add(function.name)
                for row in voted[: examples - len(shown[function.name])].tolist():
                    label = config.classes[outcome.votes[row]]
                    shown[function.name].append(Example(item_id=part.item_ids[row], label=label, text=part.texts[row]))
    return [
        FunctionPreview(
            name=name,
            items=called[name],
            hits=(n := hits[name].total()),
            coverage=n / called[name] if called[name] else 0.0,
            polarity=tuple(config.classes[c] for c, _ in hits[name].most_common()),
            faults=faults[name],
            first_fault=first_fault.get(name, ""),
            examples=tuple(shown[name]),
        )
        for name in hits
    ]
