"""Selection: which items go to annotators next, within the budget and never twice."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from active.graph import PoolGraph
from active.pool import Pool, read_pool
from active.strategies import Pick, Situation, find_strategy
from active.value import DECIMALS
from features.index import VectorIndex
from warehouse import Lake, SettingsError, StageResult, Upsert


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """Settings of the selection.

    Attributes:
        project: annotation project whose queue is filled.
        batch: items per selection.
        budget: items that may ever be queued for this project, withdrawn ones not counted.
        refill_below: select again once at most this many tasks are unanswered.
        strategy: name of `active.strategies.find_strategy`.
        seed: seed of the strategy's generator.
        neighbors: nearest items that each item is joined with in the graph.

    Raises:
        SettingsError: a value is out of range, or the strategy is unknown.
    """

    project: str
    batch: int = 32
    budget: int = 128
    refill_below: int = 0
    strategy: str = "value"
    seed: int = 0
    neighbors: int = 20

    def __post_init__(self) -> None:
        find_strategy(self.strategy)
        for name, least in (("batch", 1), ("budget", 0), ("refill_below", 0), ("seed", 0), ("neighbors", 1)):
            if (found := getattr(self, name)) < least:
                raise SettingsError(f"{name} of the selection is {found}; it must be {least} or more.")


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
    }
    with lake.stage("select", version=1, inputs=("values",), params=params) as stage:
        if stage.done:
            return stage.result()
        queued, waiting, cycle = stage.rows(
            """
            SELECT count(*) FILTER (WHERE state <> 'withdrawn' AND project = ?),
                   count(*) FILTER (WHERE state IN ('planned', 'sent', 'confirmed') AND project = ?),
                   1 + coalesce(max(cycle), 0)
            FROM queue
            """,
            [config.project, config.project],
        )[0]
        if waiting > config.refill_below:
            return stage.nothing(reason=f"waiting for answers to {waiting} tasks")
        batch = min(config.batch, config.budget - queued)
        if batch <= 0:
            return stage.nothing(reason=f"the budget of {config.budget} labels is spent ({queued} queued)")
        reasons: dict[str, str] = dict(
            stage.rows('SELECT item_id, reason FROM "values" WHERE cycle = (SELECT max(cycle) FROM "values")')
        )
        pool = read_pool(stage, index.item_ids)
        graph = PoolGraph.from_index(index, pool.item_ids, config.neighbors)
        generator = np.random.default_rng([config.seed, cycle])
        with threadpool_limits(1):  # small products: threads only wait for each other, and may change the last bits
            pick = find_strategy(config.strategy)(Situation(pool=pool, graph=graph, generator=generator), batch)
        if not len(pick.rows):
            return stage.nothing(reason="nothing is left to select")
        return stage.commit(
            [Upsert("queue", _queue_rows(config, pool, pick, cycle, reasons))],
            rows_read=len(pool),
            detail={"cycle": cycle, "strategy": config.strategy, "queued": queued + len(pick.rows)},
        )


def _queue_rows(config: SelectConfig, pool: Pool, pick: Pick, cycle: int, reasons: dict[str, str]) -> pa.Table:
    known = pool.has_prediction[pick.rows]
    best = pool.predicted[pick.rows].argmax(axis=1)
    count = len(pick.rows)
    item_ids = [pool.item_ids[row] for row in pick.rows]
    return pa.table(
        {
            "item_id": item_ids,
            "project": [config.project] * count,
            "state": ["planned"] * count,
            "cycle": np.full(count, cycle, np.int32),
            "rank": np.arange(1, count + 1, dtype=np.int32),
            "value": np.round(pick.values, DECIMALS),
            "reason": [reasons.get(item_id, "") for item_id in item_ids],
            "prediction": np.where(known, best, -1).astype(np.int32),
            "confidence": np.where(known, pool.predicted[pick.rows, best], 0.0).astype(np.float32),
            "content_hash": [pool.content_hashes[row] for row in pick.rows],
            "task_id": [""] * count,
        }
    )
