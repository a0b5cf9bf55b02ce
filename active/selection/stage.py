"""Selection: which items go to annotators next, within the budget and never twice."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from active.pool.graph import Floats, PoolGraph
from active.pool.pool import Pool, read_pool
from active.selection.exploration import EXPLORED, exploration_next
from active.strategies import SINGLE_LABEL, STRATEGIES, Pick, Quota, Situation, find_strategy
from active.value.reasons import with_seconds
from active.value.stage import DECIMALS
from features.neighbors.faiss_index import VectorIndex
from warehouse import Lake, Reader, SettingsError, StageResult, Upsert
from warehouse.numeric import one_core

NOTHING_LEFT = "nothing is left to select"
"""Reason of a selection that queues nothing where the budget has a rest."""
_VALUED = 'FROM "values" WHERE cycle = (SELECT max(cycle) FROM "values")'


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """Settings of the selection.

    Attributes:
        project: annotation project whose queue is filled.
        batch: items per selection.
        budget: items that may ever be queued for this project.
        refill_below: select again once at most this many tasks are unanswered.
        strategy: name of `active.strategies.find_strategy`.
        seed: seed of the strategy's generator.
        neighbors: nearest items that each item is joined with in the graph.
        explore: share of all selected items that goes to the fair sample of `active.selection.exploration`, rounded up;
            0 for none.
        most_per_class: largest share of a batch that the end model may think of one class, rounded up; 1 for no limit.
            In a multi-label project an item counts for every class that it is thought to have. The fair sample is not
            limited and not counted, here and by `most_per_slice`.
        slice_by: metadata key that divides the items into slices; empty for none.
        most_per_slice: largest share of a batch from one slice, rounded up; items without the key have no limit.
        cost: what a label is taken to cost: "label" (all the same) or "seconds", the time it is expected to take, as
            soon as enough answers tell; for the strategy `value`.

    Raises:
        SettingsError: a value is out of range, the strategy is unknown, or it does not look at seconds.
    """

    project: str
    batch: int = 32
    budget: int = 128
    refill_below: int = 0
    strategy: str = "value"
    seed: int = 0
    neighbors: int = 20
    explore: float = 0.0
    most_per_class: float = 1.0
    slice_by: str = ""
    most_per_slice: float = 1.0
    cost: Literal["label", "seconds"] = "label"

    def __post_init__(self) -> None:
        find_strategy(self.strategy)
        for name, least in (("batch", 1), ("budget", 0), ("refill_below", 0), ("seed", 0), ("neighbors", 1)):
            if (found := getattr(self, name)) < least:
                raise SettingsError(f"{name} of the selection is {found}; it must be {least} or more.")
        if not 0 <= self.explore <= 1:
            raise SettingsError(f"explore of the selection is {self.explore}; it is a share of the batch, 0 to 1.")
        if '"' in self.slice_by:
            raise SettingsError(f"slice_by of the selection is {self.slice_by!r}; a key with a quote cannot be used.")
        for name in ("most_per_class", "most_per_slice"):
            if not 0 < (share := getattr(self, name)) <= 1:
                raise SettingsError(f"{name} of the selection is {share}; it is a share of the batch, over 0 up to 1.")
        if self.cost not in ("label", "seconds"):
            raise SettingsError(f'cost of the selection is "{self.cost}"; it is "label" or "seconds".')
        if self.cost == "seconds" and self.strategy in STRATEGIES and self.strategy != "value":
            raise SettingsError(
                f'cost = "seconds" of the selection needs the strategy "value"; "{self.strategy}" does not look at '
                'seconds. Set strategy = "value", or cost = "label".'
            )


def check_multi_label(strategy: str) -> None:
    """Refuse a strategy that needs exactly one class per item.

    Raises:
        SettingsError: this one does.
    """
    if strategy in SINGLE_LABEL or strategy not in STRATEGIES:
        usable = ", ".join(name for name in STRATEGIES if name not in SINGLE_LABEL)
        raise SettingsError(
            f"The selection strategy '{strategy}' is not known to work where an item may have several classes "
            f"(multi_label); use one of {usable}."
        )


def select(lake: Lake, index: VectorIndex, config: SelectConfig) -> StageResult:
    """Queue the next batch as planned tasks, best first.

    Nothing is queued while more than `refill_below` tasks are unanswered, when the budget is spent, or when no item
    is left that is neither labelled, queued nor a near-duplicate of one that is; `detail["reason"]` then says which.

    Args:
        lake: the warehouse.
        index: of the current vectors.
        config: settings.
    """
    params = {
        "project": config.project,
        "batch": config.batch,
        "budget": config.budget,
        "strategy": config.strategy,
        "seed": config.seed,
        "neighbors": config.neighbors,
        "explore": config.explore,
        "quotas": [config.most_per_class, config.slice_by, config.most_per_slice],
        "cost": config.cost,
    }
    with lake.stage("select", version=3, inputs=("values",), params=params) as stage:
        if stage.done:
            return stage.result()
        queued, waiting, cycle = stage.rows(
            """
            SELECT count(*) FILTER (WHERE project = $1),
                   count(*) FILTER (WHERE state IN ('planned', 'sent', 'confirmed') AND project = $1),
                   1 + coalesce(max(cycle), 0)
            FROM queue
            """,
            [config.project],
        )[0]
        if waiting > config.refill_below:
            return stage.nothing(reason=f"waiting for answers to {waiting} tasks")
        batch = min(config.batch, config.budget - queued)
        if batch <= 0:
            return stage.nothing(reason=f"the budget of {config.budget} labels is spent ({queued} queued)")
        pool = read_pool(stage, index.item_ids)
        if pool.multi_label:
            check_multi_label(config.strategy)
        seconds = None
        if config.cost == "seconds":
            costs = stage.rows(f"SELECT item_id, expected_seconds {_VALUED} AND expected_seconds IS NOT NULL")
            seconds = _seconds(pool, dict(costs))
        graph = PoolGraph.from_index(index, pool.item_ids, config.neighbors)
        generator = np.random.default_rng([config.seed, cycle])
        # The share of all items so far less that of those before: rounded up each, small batches explore too much.
        explored = _part(config.explore, queued + batch) - _part(config.explore, queued)
        fair = exploration_next(pool, config.seed, explored)
        rest = replace(pool, queued=np.concatenate([pool.queued, fair]))
        quotas = _quotas(stage, config, pool, batch)
        with one_core():  # small products: threads only wait for each other, and may change the last bits
            situation = Situation(pool=rest, graph=graph, generator=generator, quotas=quotas, seconds=seconds)
            pick = _picked(config.strategy, situation, batch - len(fair))
        pick = Pick(np.concatenate([pick.rows, fair]), np.concatenate([pick.values, np.zeros(len(fair))]))
        if not len(pick.rows):
            return stage.nothing(reason=NOTHING_LEFT)
        picked = [pool.item_ids[row] for row in pick.rows]
        valued = stage.rows(f"SELECT item_id, reason {_VALUED} AND item_id IN (SELECT unnest(?))", [picked])
        reasons = {item_id: str(reason) for item_id, reason in valued}
        if seconds is not None:
            for row in pick.rows.tolist():
                item_id = pool.item_ids[row]
                reasons[item_id] = with_seconds(reasons.get(item_id, ""), float(seconds[row]))
        reasons.update({pool.item_ids[row]: EXPLORED for row in fair})
        return stage.commit(
            [Upsert("queue", _queue_rows(config, pool, pick, cycle, reasons))],
            rows_read=len(pool),
            detail={
                "cycle": cycle,
                "strategy": config.strategy,
                "queued_in_all": queued + len(pick.rows),
                **({"explored": len(fair)} if len(fair) else {}),
                **({"ranked_by": "label" if seconds is None else "second"} if config.cost == "seconds" else {}),
            },
        )


def _part(share: float, count: int) -> int:
    """A share of so many items, rounded up; 0.07 of 100 is 7, whatever floating point makes of it."""
    return math.ceil(round(share * count, 9))


def _picked(name: str, situation: Situation, batch: int) -> Pick:
    """What a strategy picks, refused where it would break the promises of the queue; no strategy is asked for nothing.

    Raises:
        SettingsError: it failed, or picked taken items, one twice, more than were asked for, or without a value.
    """
    if batch == 0:
        return Pick(np.empty(0, np.int64), np.empty(0))
    strategy = find_strategy(name)
    if name in STRATEGIES:
        return strategy(situation, batch)
    try:
        pick = strategy(situation, batch)
        rows, values = np.asarray(pick.rows), np.asarray(pick.values, np.float64)
    except Exception as error:
        raise SettingsError(f"The strategy '{name}' failed: {type(error).__name__}: {error}.") from error
    wrong = ""
    if rows.ndim != 1 or values.shape != rows.shape or (len(rows) and rows.dtype.kind not in "iu"):
        wrong = f"rows of shape {rows.shape} ({rows.dtype}) with values of shape {values.shape}"
    elif len(rows) > batch:
        wrong = f"{len(rows)} items where {batch} were asked for"
    elif len(np.unique(rows)) < len(rows):
        wrong = "an item twice"
    elif not np.isin(rows, situation.pool.open).all():
        wrong = "items that are labelled or queued, or that do not exist"
    elif not ((values >= 0) & (values <= 1)).all():
        wrong = "values that are not between 0 and 1"
    if wrong:
        raise SettingsError(f"The strategy '{name}' gave {wrong}. Mend it, or set another strategy.")
    return Pick(rows.astype(np.int64), values)


def _seconds(pool: Pool, expected: dict[str, float]) -> Floats | None:
    """Expected seconds of each item [N], None while nothing is known; an item without a value counts as the middle."""
    if not expected:
        return None
    middle = float(np.median(list(expected.values())))
    return np.array([expected.get(item_id, middle) for item_id in pool.item_ids])


def _quotas(reader: Reader, config: SelectConfig, pool: Pool, batch: int) -> tuple[Quota, ...]:
    quotas: list[Quota] = []
    if config.most_per_class < 1:
        most = _part(config.most_per_class, batch)
        if pool.multi_label:
            has = pool.has_prediction[:, None] & (pool.predicted >= 0.5)
            quotas += [Quota(groups=np.where(of, 0, -1), most=most) for of in has.T]
        else:
            predicted = np.where(pool.has_prediction, pool.predicted.argmax(axis=1), -1).astype(np.int64)
            quotas.append(Quota(groups=predicted, most=most))
    if config.slice_by and config.most_per_slice < 1:
        values = dict(
            reader.rows(
                "SELECT item_id, json_extract_string(metadata, ?) FROM items WHERE split = 'train'",
                [f'$."{config.slice_by}"'],
            )
        )
        number = {name: place for place, name in enumerate(sorted(set(values.values()) - {None}))}
        groups = [number.get(values.get(item), -1) for item in pool.item_ids]
        quotas.append(Quota(groups=np.array(groups, np.int64), most=_part(config.most_per_slice, batch)))
    return tuple(quotas)


def _queue_rows(config: SelectConfig, pool: Pool, pick: Pick, cycle: int, reasons: dict[str, str]) -> pa.Table:
    known = pool.has_prediction[pick.rows]
    probs = pool.predicted[pick.rows]
    best = probs.argmax(axis=1)
    sure = np.maximum(probs, 1.0 - probs).min(axis=1) if pool.multi_label else probs.max(axis=1)
    count = len(pick.rows)
    item_ids = [pool.item_ids[row] for row in pick.rows]
    columns: dict[str, object] = {}
    if pool.multi_label:
        if len(pool.untaught):  # it says no to them whatever they are, so that no class fits is not for it to say
            known = known & (probs >= 0.5).any(axis=1)
        suggested = [
            np.flatnonzero(row >= 0.5).tolist() if said else None for row, said in zip(probs, known, strict=True)
        ]
        columns["predictions"] = pa.array(suggested, pa.list_(pa.int32()))
        best = np.full(count, -1)
    return pa.table(
        {
            **columns,
            "item_id": item_ids,
            "project": [config.project] * count,
            "state": ["planned"] * count,
            "cycle": np.full(count, cycle, np.int32),
            "rank": np.arange(1, count + 1, dtype=np.int32),
            "value": np.round(pick.values, DECIMALS),
            "reason": [reasons.get(item_id, "") for item_id in item_ids],
            "prediction": np.where(known, best, -1).astype(np.int32),
            "confidence": np.where(known, sure, 0.0).astype(np.float32),
            "content_hash": [pool.content_hashes[row] for row in pick.rows],
            "task_id": [""] * count,
        }
    )
