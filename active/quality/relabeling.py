"""Asking people again: about what was edited, a label they disagree on, or a label that is probably wrong.

There is one way to ask again: the item's task goes to `asked_before`, and its row of the queue is planned anew, so a
fresh task reaches the service by the outbox's own steps. A fresh task can go to anybody and shows neither the earlier
answers nor a suggestion; one more place on the old task would never reach the person who answered it, and where only
one annotator works the row would wait for ever. Earlier answers still count, except those to
what was edited: the text, or metadata that was shown.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from active.pool.pool import SUGGESTED
from active.quality.label_errors import SUSPICIOUS, Suspect, suspects
from active.queue.import_labels import ELSEWHERE
from active.selection.exploration import EXPLORED, is_explored
from features.neighbors.faiss_index import VectorIndex
from warehouse import Delete, Lake, Reader, SettingsError, StageResult, Upsert
from warehouse.commits.stage import Write
from warehouse.schema.answer_views import WHO, sent_hash, shown_keys

Why = Literal["edited", "disagreement", "second_look"]

CERTAIN = 0.75
"""A label that people disagree on is settled from this confidence on: two to one of unknown annotators is enough."""
MOST_OPINIONS = 2
"""Times that an item is asked again because of disagreement."""
_KEY = pa.schema([("item_id", pa.string()), ("project", pa.string()), ("round", pa.int32())])

REASONS: dict[Why, str] = {
    "edited": "Asked again: the text was edited.",
    "disagreement": "Asked again: people disagree about it.",
    "second_look": "Asked again: a second look, because similar texts have other labels.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AskAgainConfig:
    """Settings of asking again.

    Attributes:
        project: annotation project.
        budget: labels that people may be asked for in all.
        second_opinion: share of the budget for items that people disagree on.
        second_look: share of the budget for labels that are probably wrong; each is asked again at most once.
        annotators_per_task: people who answer each task.

    Raises:
        SettingsError: a share is out of range.
    """

    project: str
    budget: int
    second_opinion: float = 0.1
    second_look: float = 0.0
    annotators_per_task: int = 1

    def __post_init__(self) -> None:
        for name in ("second_opinion", "second_look"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise SettingsError(f"{name} is {share}; it is a share of the label budget, 0 to 1.")


def ask_again(lake: Lake, index: Callable[[], VectorIndex], config: AskAgainConfig) -> StageResult:
    """Plan a new task for every edited item, and within their budgets for contested and for suspicious labels.

    Items whose edit was taken back get the task again that people answered before it.

    Nobody is asked again about an answered item that is not of the split train any more: no model would learn from it.
    Items that were edited before they were sent only get their row corrected. Tasks under way (`sent`) wait for the
    next run. Items with imported labels, which have no row yet, get one when they are asked about.

    Args:
        lake: the warehouse.
        index: gives the index of the current vectors; called only where labels are looked for that are probably wrong.
        config: settings.
    """
    with lake.read() as reader:
        rows = _rows(reader, config.project)
        before = reader.rows(
            "SELECT item_id, round, why FROM asked_before WHERE project = ? ORDER BY item_id, round", [config.project]
        )
        wanted: dict[str, Why] = {
            item: "edited"
            for item, row in rows.items()
            if row["content_hash"] != row["now"]
            and (row["state"] in ("planned", "confirmed") or (row["state"] == "answered" and row["train"]))
        }
        back = _answered_before(reader, config, {item: rows[item]["now"] for item in wanted})
        lost = sum(rows[item]["state"] == "answered" and item not in back for item in wanted)
        open_items = {item for item, row in rows.items() if row["state"] == "answered" and row["train"]} - set(wanted)
        open_items |= _imported(reader) - set(rows)
        _add(
            wanted,
            "disagreement",
            _contested(reader, open_items, before),
            _share(config.budget, config.second_opinion),
            before,
        )
        reasons: dict[str, str] = {}
        if _share(config.budget, config.second_look) > _spent(before, "second_look"):
            looked = {item for item, _, why in before if why == "second_look"}
            names = reader.class_names()
            unseen = open_items - set(wanted) - looked
            reasons = {
                s.item_id: _doubt(s, names)
                for s in suspects(reader, index())
                if s.suspicion > SUSPICIOUS and s.item_id in unseen
            }
            _add(wanted, "second_look", list(reasons), _share(config.budget, config.second_look), before)
        rows |= _imported_rows(reader, config.project, sorted(set(wanted) - set(rows)))
    rounds = {item: number for item, number, _ in before}
    params: dict[str, Any] = {"project": config.project, "wanted": sorted(wanted.items())}
    if back:
        params["back"] = sorted(back.items())
    with lake.stage("ask_again", version=3, inputs=("queue", "items"), params=params) as stage:
        if not wanted:
            return stage.nothing()
        planned = [_planned(rows[item], why, reasons.get(item, REASONS[why])) for item, why in sorted(wanted.items())]
        asked = [
            {
                "item_id": item,
                "project": config.project,
                "round": rounds.get(item, 0) + 1,
                "task_id": rows[item]["task_id"],
                "content_hash": rows[item]["content_hash"],
                "why": why,
            }
            for item, why in sorted(wanted.items())
            if rows[item]["state"] != "planned"
        ]
        writes: list[Write] = [Upsert("queue", pa.Table.from_pylist(planned))]
        if back:  # what is in the table no more is the item's task once the queue's next push finds it
            again = [{"item_id": item, "project": config.project, "round": n} for item, n in sorted(back.items())]
            writes.append(Delete("asked_before", pa.Table.from_pylist(again, _KEY)))
        if asked:
            writes.append(Upsert("asked_before", pa.Table.from_pylist(asked)))
        anew = [why for item, why in wanted.items() if item not in back]
        detail: dict[str, Any] = {why.replace("_", " "): count for why in REASONS if (count := anew.count(why))}
        if back:
            detail["edits taken back"] = len(back)
        if lost:
            detail["advice"] = _lost_in_words(lost)
        return stage.commit(writes, rows_read=len(rows), detail=detail)


def _rows(reader: Reader, project: str) -> dict[str, dict[str, Any]]:
    """The project's queue by item, with the hash of what it shows and the prediction of now."""
    found = reader.arrow(
        f"""
        SELECT q.* EXCLUDE (run_id, committed_at), {sent_hash(shown_keys("q.content_hash"))} AS now,
               i.split = 'train' AS train,
               coalesce(p.confidence, 0) AS new_confidence,
               CASE WHEN k.multi_label THEN -1 ELSE coalesce(p.class_id, -1) END AS new_prediction,
               {SUGGESTED} AS new_predictions
        FROM queue q JOIN items i ON i.item_id = q.item_id
        LEFT JOIN latest_predictions p ON p.item_id = q.item_id
        CROSS JOIN (SELECT bool_or(multi_label) AS multi_label FROM classes) k
        WHERE q.project = ?
        """,
        [project],
    ).to_pylist()
    return {row["item_id"]: row for row in found}


def _answered_before(reader: Reader, config: AskAgainConfig, now: dict[str, str]) -> dict[str, int]:
    """The latest earlier task, by its round, that showed what an item shows now and that enough people answered.

    Args:
        reader: the warehouse.
        config: settings.
        now: hash of what each edited item shows now.
    """
    if not now:
        return {}
    found = reader.rows(
        f"""
        SELECT b.item_id, b.round, b.content_hash FROM asked_before b JOIN current_annotations a
        ON a.item_id = b.item_id AND a.project = b.project AND a.task_id = b.task_id AND a.action <> 'deleted'
        WHERE b.project = ? AND b.item_id IN (SELECT unnest(?::VARCHAR[])) AND NOT EXISTS (
            -- Which answers they called for is told by the order of the tasks, which would be another.
            FROM asked_before w
            WHERE w.item_id = b.item_id AND w.project = b.project AND w.why IN ('disagreement', 'second_look')
        )
        GROUP BY ALL HAVING count(DISTINCT {WHO}) >= ? ORDER BY b.round
        """,
        [config.project, sorted(now), config.annotators_per_task],
    )
    return {item: round for item, round, shown in found if shown == now[item]}


def _lost_in_words(items: int) -> str:
    what = "1 item that people answered was" if items == 1 else f"{items:,} items that people answered were"
    return (
        f"{what} edited since: the old answers count no more, and people are asked anew. Where an edit is taken back, "
        "they count again."
    )


def _imported(reader: Reader) -> set[str]:
    """Train items with imported labels, for which there was no task."""
    found = reader.rows(
        "SELECT DISTINCT a.item_id FROM current_annotations a JOIN items i ON i.item_id = a.item_id "
        "WHERE a.project = ? AND a.action = 'labelled' AND i.split = 'train'",
        [ELSEWHERE],
    )
    return {str(item) for (item,) in found}


def _imported_rows(reader: Reader, project: str, items: list[str]) -> dict[str, dict[str, Any]]:
    """Rows for imported items, as if a task without an id had been answered: behind those of the latest selection."""
    if not items:
        return {}
    cycle, rank = reader.rows(
        "SELECT greatest(coalesce(max(cycle), 0), 1), coalesce(arg_max(rank, (cycle, rank)), 0) FROM queue "
        "WHERE project = ?",
        [project],
    )[0]
    hashes = reader.rows("SELECT item_id, content_hash FROM items WHERE item_id IN (SELECT unnest(?))", [items])
    return {
        str(item): {
            "item_id": str(item),
            "project": project,
            "state": "answered",
            "cycle": cycle,
            "rank": rank + place,
            "value": 0.0,
            "reason": "",
            "content_hash": content_hash,
            "now": content_hash,
            "train": True,
            "task_id": "",
        }
        for place, (item, content_hash) in enumerate(sorted(hashes), 1)
    }


def _contested(reader: Reader, items: set[str], before: Iterable[tuple[str, int, str]]) -> list[str]:
    """Items on which people disagree and nothing is settled, the least certain first."""
    asked: dict[str, int] = {}
    for item, _, why in before:
        asked[item] = asked.get(item, 0) + (why == "disagreement")
    rows = reader.rows(
        """
        SELECT item_id FROM gold_labels WHERE agreeing < annotations AND confidence < ? ORDER BY confidence, item_id
        """,
        [CERTAIN],
    )
    return [item for (item,) in rows if item in items and asked.get(item, 0) < MOST_OPINIONS]


def _share(budget: int, share: float) -> int:
    """Whole labels in a share of the budget. 100 times 0.29 is 28.999999999999996 in floats, and means 29."""
    return int(budget * share + 1e-6)


def _spent(before: Iterable[tuple[str, int, str]], why: Why) -> int:
    return sum(1 for _, _, earlier in before if earlier == why)


def _add(
    wanted: dict[str, Why], why: Why, items: list[str], budget: int, before: Iterable[tuple[str, int, str]]
) -> None:
    """Want the first items, as far as the budget for this reason reaches."""
    for item in items[: max(0, budget - _spent(before, why))]:
        wanted[item] = why


def _doubt(suspect: Suspect, names: list[str]) -> str:
    """The reason of a second look; with several classes it names the one in question, and not how it was answered."""
    if suspect.in_question is None:
        return REASONS["second_look"]
    return f"Asked again: a second look at '{names[suspect.in_question]}', because similar texts have other labels."


def _planned(row: dict[str, Any], why: Why, reason: str) -> dict[str, Any]:
    """The row of the queue for the new task; an edited text gets a suggestion, that of the model for the new text."""
    edited = why == "edited"
    suggests = edited and (row["new_prediction"] >= 0 or row["new_predictions"] is not None)
    if row["state"] == "planned":
        reason = row["reason"]
    elif is_explored(row["reason"]):
        reason = f"{EXPLORED} {reason}"
    planned = {
        **row,
        "state": "planned",
        "task_id": "",
        "content_hash": row["now"],
        "reason": reason,
        "prediction": row["new_prediction"] if edited else -1,
        "predictions": row["new_predictions"] if edited else None,
        "confidence": row["new_confidence"] if suggests else 0.0,
    }
    return {key: value for key, value in planned.items() if key not in ("now", "train") and not key.startswith("new_")}
