"""What labeling functions that have not voted yet would do: `preview` calls them on some items and writes nothing."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from warehouse import Lake
from weak_labels.applying.batches import check_services, refused_exemplars, remember_encode, to_batch
from weak_labels.applying.progress import VECTORS, fetched_at_once, item_tables
from weak_labels.applying.stage import VoteConfig
from weak_labels.functions.call import MAX_TIMEOUTS, Limits, call_function
from weak_labels.functions.types import Ask, Encode, ItemBatch, LabelingFunction, check_functions


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
    vector, join, params = (", x.vector", VECTORS, [config.encoder_id]) if needs_vectors else ("", "", [])
    limit = "" if items is None else f"LIMIT {int(items)}"
    # md5 spreads the choice over the data without a seed that somebody would have to keep.
    sql = f"""
        WITH chosen AS (SELECT item_id FROM items WHERE split = 'train' ORDER BY md5(item_id), item_id {limit})
        SELECT i.item_id, i.content, i.metadata{vector} FROM items i
        JOIN chosen USING (item_id) {join} ORDER BY i.item_id
    """
    trials = [_Trial(function) for function in functions]
    encode = remember_encode(encode)
    with lake.read() as reader:
        fetched = fetched_at_once(reader, config.batch_items)
        for table in item_tables(reader, sql, params, rows=config.batch_items, fetched=fetched):
            batch = to_batch(table, config.classes, encode, ask)
            with_vector = batch.take(np.flatnonzero(table.column("vector").is_valid())) if needs_vectors else batch
            for trial in trials:
                part = with_vector if trial.function.uses_vectors else batch
                if len(part) and not trial.stopped:
                    trial.call(part, encode, config, examples)
    return [trial.told(config.classes) for trial in trials]


@dataclass(slots=True)
class _Trial:
    """What one function did so far."""

    function: LabelingFunction
    votes: Counter[int] = field(default_factory=Counter[int])
    items: int = 0
    faults: int = 0
    timeouts: int = 0
    first_fault: str = ""
    stopped: bool = False
    examples: list[Example] = field(default_factory=list[Example])

    def call(self, batch: ItemBatch, encode: Encode | None, config: VoteConfig, examples: int) -> None:
        limits = Limits(timeout_s=config.timeout_s, max_timeouts=MAX_TIMEOUTS - self.timeouts)
        refused = refused_exemplars(self.function, encode, len(batch))
        outcome = refused or call_function(self.function, batch, limits)
        voted = np.flatnonzero(outcome.votes >= 0)
        self.votes.update(outcome.votes[voted].tolist())
        self.items += outcome.asked
        self.faults += len(outcome.faults)
        self.timeouts += outcome.timeouts
        self.stopped = outcome.over(limits)
        if outcome.faults and not self.first_fault:
            self.first_fault = f"{outcome.faults[0].fault}: {outcome.faults[0].detail}"
        for row in voted[: examples - len(self.examples)].tolist():
            label = config.classes[outcome.votes[row]]
            self.examples.append(Example(item_id=batch.item_ids[row], label=label, text=batch.texts[row]))

    def told(self, classes: Sequence[str]) -> FunctionPreview:
        hits = self.votes.total()
        return FunctionPreview(
            name=self.function.name,
            items=self.items,
            hits=hits,
            coverage=hits / self.items if self.items else 0.0,
            polarity=tuple(classes[c] for c, _ in self.votes.most_common()),
            faults=self.faults,
            first_fault=self.first_fault,
            examples=tuple(self.examples),
        )
