"""What the report says, read from one snapshot of the warehouse: plain values, no drawing.

Every figure comes from a table or view of the warehouse; nothing is recomputed that a view already answers, and
nothing that grows with the number of items is loaded: histograms and quantiles are made by DuckDB, texts are cut there.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from active.pool.pool import SUGGESTED
from active.selection.exploration import EXPLORED, FairScore, score_fair_sample
from flows.report.current_models import (
    belief_in_weak_labels,
    json_object,
    latest_counts,
    scored_before,
    scored_without,
    unread_share,
)
from flows.report.sample import TEXT_CHARS, MapItems, Row, read_map_items
from warehouse.queries.reader import Reader
from weak_labels.analysis.gold_file import also_in_train
from weak_labels.analysis.lf_report import Report, lf_report

QUEUE_ROWS = 12
PEOPLE_ROWS = 50
NEWEST_ROWS = 300  # of reads, models and runs, which grow for as long as a project runs
VALUE_BINS = 48
COMPONENTS = ("representativeness", "uncertainty", "disagreement", "redundancy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A series at one number of labels: mean, extremes and standard deviation over its seeds."""

    labels: int
    mean: float
    low: float
    high: float
    spread: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantiles:
    """Five quantiles of a component of the value: 5%, 25%, 50%, 75%, 95%."""

    name: str
    everything: tuple[float, ...]
    selected: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Values:
    """Distribution of the values of one cycle; `bins` are (left edge, items, items that were selected)."""

    cycle: int
    items: int
    selected: int
    bin_width: float
    bins: Sequence[tuple[float, int, int]]
    components: Sequence[Quantiles]


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """All that the report says.

    Attributes:
        confusion: of the end model with `confusion_labels` gold labels; none in a multi-label project.
        by_class: there, of each class, the items that have it and are given it, have it and are not given it, and are
            given it and have it not.
        calibration_by_chance: its calibration error if it were exactly as often right as it says; None where unknown.
        scored_items: items that the latest accuracy was measured on.
        also_in_train: items of the scored split whose text stands in train too.
        belief_in_weak_labels: how far the end model believes what they taught, 0 to 1; see
            `weak_labels.classifiers.gold_update`.
        unread: share of the texts' tokens that tell the encoder next to nothing, 0 to 1.
        scored_before: the figures are of earlier end models, as the newest was not scored.
        scored_without: of `flows.report.current_models.scored_without`.
    """

    snapshot: int
    last_commit: datetime | None
    versions: Sequence[str]
    splits: Sequence[tuple[str, int]]
    gold_labels: int
    simulated_labels: int
    timed_labels: int
    label_seconds: float
    skipped: int
    seconds: float
    timed: Row
    annotators: int
    people: Sequence[Row]
    alpha: float | None
    contested: int
    scored_split: str
    scored_before: bool
    scored_without: str
    fair: FairScore | None
    series: Mapping[str, Mapping[str, Sequence[Point]]]
    confusion: Sequence[Sequence[int]]
    confusion_labels: int
    calibration_by_chance: float | None
    scored_items: int
    also_in_train: int
    multi_label: bool
    by_class: Sequence[tuple[int, int, int]]
    batches: Sequence[Row]
    cycles: Sequence[Row]
    belief_in_weak_labels: float | None
    unread: float
    faults: Sequence[Row]
    insight: Report
    values: Values | None
    map: MapItems | None
    queue_is_open: bool
    queue_total: int
    queue: Sequence[Row]
    ingests: Sequence[Row]
    reasons: Sequence[Row]
    quarantined: int
    stages: Sequence[Row]
    runs: Sequence[Row]
    models: Sequence[Row]
    models_total: int
    encoders: Sequence[Row]

    @property
    def items(self) -> int:
        """Items of all splits."""
        return sum(n for _, n in self.splits)

    @property
    def simulated(self) -> bool:
        """At least one label in force came from the simulated annotator."""
        return self.simulated_labels > 0

    @property
    def simulation(self) -> str:
        """What to call the labels in force: simulated, partly simulated, or nothing."""
        if not self.simulated:
            return ""
        return "simulated" if self.simulated_labels == self.gold_labels else "partly simulated"

    @property
    def runs_total(self) -> int:
        """Committed runs of all stages."""
        return sum(int(stage["runs"]) for stage in self.stages)

    @property
    def reads_total(self) -> int:
        """Committed runs of ingest."""
        return sum(int(stage["runs"]) for stage in self.stages if stage["stage"] == "ingest")


def read_facts(reader: Reader, *, seed: int = 0) -> Facts:
    """Read everything the report says from the reader's snapshot.

    Args:
        reader: of the warehouse.
        seed: `[select] seed`, by which the fair sample is drawn.
    """
    split = str(
        # Figures of a split that is no longer scored stay in the warehouse.
        reader.scalar("SELECT split FROM metrics WHERE series <> 'annotators' ORDER BY committed_at DESC LIMIT 1")
        or "test"
    )
    multi_label = bool(reader.scalar("SELECT bool_or(multi_label) FROM classes"))
    counted, counted_labels = latest_counts(reader, split, "accuracy")
    confusion, by_class = counted.get("confusion", []), counted.get("by_class", [])
    is_open, total, queue = _queue(reader)
    answers = reader.rows(
        "SELECT coalesce(sum(seconds), 0), count(*) FILTER (WHERE action = 'skipped'), count(DISTINCT annotator) "
        "FROM current_annotations WHERE action <> 'deleted'"
    )[0]
    gold = reader.rows(
        "SELECT count(*), count(*) FILTER (WHERE simulated), count(*) FILTER (WHERE seconds > 0), "
        "coalesce(sum(seconds), 0) FROM gold_labels"
    )[0]
    return Facts(
        snapshot=reader.snapshot(),
        last_commit=reader.scalar("SELECT max(committed_at) FROM runs"),
        versions=[str(v) for (v,) in reader.rows("SELECT DISTINCT siftline_version FROM runs ORDER BY 1")],
        splits=[
            (str(name), int(n))
            for name, n in reader.rows(
                "SELECT split, count(*) FROM items GROUP BY split "
                "ORDER BY list_position(['train', 'valid', 'test'], split), split"
            )
        ],
        gold_labels=int(gold[0]),
        simulated_labels=int(gold[1]),
        timed_labels=int(gold[2]),
        label_seconds=float(gold[3]),
        skipped=int(answers[1]),
        seconds=float(answers[0]),
        timed=_dicts(
            reader,
            "SELECT count(*) AS answers, median(v.expected_seconds) AS expected, median(a.seconds) AS measured "
            "FROM current_annotations a JOIN queue q ON q.item_id = a.item_id AND q.project = a.project "
            'JOIN "values" v ON v.item_id = q.item_id AND v.cycle = q.cycle '
            "WHERE a.action = 'labelled' AND a.seconds > 0 AND v.expected_seconds > 0",
        )[0],
        annotators=int(answers[2]),
        people=_dicts(reader, f"SELECT * FROM annotators LIMIT {PEOPLE_ROWS}"),
        alpha=reader.scalar(
            "SELECT value FROM metrics WHERE series = 'annotators' AND name = 'krippendorff_alpha' "
            "AND EXISTS (FROM gold_labels WHERE annotations > 1) "
            "ORDER BY labels = (SELECT count(*) FROM gold_labels) DESC, committed_at DESC LIMIT 1"
        ),
        contested=int(reader.scalar("SELECT count(*) FROM gold_labels WHERE agreeing < annotations")),
        scored_split=split,
        scored_before=scored_before(reader, split),
        scored_without=scored_without(reader),
        fair=score_fair_sample(reader, seed),
        series={
            name: _series(reader, name, split) for name in ("accuracy", "macro_f1", "micro_f1", "calibration_error")
        },
        confusion=confusion,
        confusion_labels=counted_labels if confusion or by_class else 0,
        calibration_by_chance=latest_counts(reader, split, "calibration_error")[0].get("by_chance"),
        scored_items=sum(map(sum, confusion)) or int(counted.get("items", 0)),
        also_in_train=also_in_train(reader, split),
        multi_label=multi_label,
        by_class=[(hit, missed, wrong) for hit, missed, wrong in by_class],
        batches=_batches(reader),
        cycles=_dicts(
            reader,
            "SELECT c.*, m.value AS calibration_error FROM cycle_summary c LEFT JOIN metrics m "
            "ON m.series = 'end_model' AND m.name = 'calibration_error' AND m.split = c.split "
            "AND (m.detail->>'model_id') = c.end_model_id ORDER BY c.cycle",
        ),
        belief_in_weak_labels=belief_in_weak_labels(reader),
        unread=unread_share(reader),
        faults=_dicts(
            reader,
            "SELECT lf_name, fault, count(*) AS calls, min(left(detail, 300)) AS example FROM lf_faults "
            "GROUP BY lf_name, fault ORDER BY calls DESC, lf_name, fault",
        ),
        insight=lf_report(reader),
        values=_values(reader),
        map=read_map_items(reader),
        queue_is_open=is_open,
        queue_total=total,
        queue=queue,
        ingests=_ingests(reader),
        reasons=_dicts(
            reader,
            "SELECT source, reason, count(*) AS records, min(position) AS first_position, "
            "arg_min(left(detail, 300), position) AS example FROM quarantine "
            "GROUP BY source, reason ORDER BY records DESC, source, reason",
        ),
        quarantined=int(reader.scalar("SELECT count(*) FROM quarantine")),
        stages=_dicts(
            reader,
            "SELECT stage, count(*) AS runs, sum(rows_read)::BIGINT AS rows_read, sum(seconds) AS seconds, "
            "max(committed_at) AS last_at FROM runs GROUP BY stage ORDER BY min(committed_at), stage",
        ),
        runs=_runs(reader),
        models=_dicts(
            reader,
            "FROM (SELECT stage, sequence, kind, model_id, gold_labels, items, left(detail, 300) AS detail FROM models "
            f"ORDER BY committed_at DESC, model_id LIMIT {NEWEST_ROWS}) ORDER BY stage, sequence",
        ),
        models_total=int(reader.scalar("SELECT count(*) FROM models")),
        encoders=_dicts(
            reader,
            "SELECT encoder_id, count(*) AS items, max(len(vector)) AS dimensions, sum(tokens)::BIGINT AS tokens, "
            "count(*) FILTER (WHERE truncated) AS truncated, avg(active_frac) AS active_frac "
            "FROM vectors GROUP BY encoder_id ORDER BY max(committed_at)",
        ),
    )


def _dicts(reader: Reader, sql: str) -> list[Row]:
    return reader.arrow(sql).to_pylist()


def _series(reader: Reader, name: str, split: str) -> dict[str, list[Point]]:
    values: dict[str, dict[int, list[float]]] = {}
    for series, labels, value in reader.rows(
        "SELECT series, labels, value FROM metrics WHERE name = ? AND split = ? AND isfinite(value) "
        "ORDER BY series, labels, seed",
        [name, split],
    ):
        values.setdefault(series, {}).setdefault(labels, []).append(value)
    return {
        series: [
            Point(
                labels=labels,
                mean=statistics.fmean(v),
                low=min(v),
                high=max(v),
                spread=statistics.stdev(v) if len(v) > 1 else None,
                seeds=len(v),
            )
            for labels, v in points.items()
        ]
        for series, points in values.items()
    }


def _batches(reader: Reader) -> list[Row]:
    # Tasks drawn at random and those asked again have the value 0, which had no part in choosing them.
    return _dicts(
        reader,
        """
        WITH answers AS (
            SELECT q.project, q.cycle,
                   count(DISTINCT q.item_id) FILTER (WHERE a.action = 'skipped' AND q.state = 'answered'
                       AND q.item_id NOT IN (SELECT item_id FROM opinions)) AS skipped, sum(a.seconds) AS seconds,
                   median(a.seconds) FILTER (WHERE a.action = 'labelled' AND a.seconds > 0) AS median_seconds,
                   coalesce(bool_or(a.simulated), false) AS simulated
            FROM current_annotations a JOIN queue q ON q.item_id = a.item_id AND q.project = a.project
            WHERE a.action <> 'deleted' GROUP BY q.project, q.cycle
        ), worth AS (
            SELECT project, cycle, min(value) AS lowest, max(value) AS highest FROM queue WHERE value > 0 GROUP BY ALL
        )
        SELECT p.* REPLACE (w.lowest AS lowest_value, w.highest AS highest_value), coalesce(a.skipped, 0) AS skipped,
               a.seconds, a.median_seconds, coalesce(a.simulated, false) AS simulated
        FROM queue_progress p LEFT JOIN answers a ON a.project = p.project AND a.cycle = p.cycle
        LEFT JOIN worth w ON w.project = p.project AND w.cycle = p.cycle
        ORDER BY p.project, p.cycle
        """,
    )


def _values(reader: Reader) -> Values | None:
    cycle = reader.scalar('SELECT max(cycle) FROM "values"')
    if cycle is None:
        return None
    # `chosen` is whether the selection of this very cycle took the item for its value, and not at random.
    marked = (
        'SELECT v.*, q.item_id IS NOT NULL AS chosen FROM "values" v '
        "LEFT JOIN (SELECT DISTINCT item_id FROM queue WHERE cycle = ? AND NOT starts_with(reason, ?)) q "
        "ON q.item_id = v.item_id WHERE v.cycle = ? AND isfinite(v.value)"
    )
    of = [cycle, EXPLORED, cycle]
    low, high = reader.rows(f"SELECT min(value), max(value) FROM ({marked})", of)[0]
    if low is None:
        return None
    width = (high - low) / VALUE_BINS or 1 / VALUE_BINS
    bins = reader.rows(
        f"SELECT least(floor((value - ?) / ?), {VALUE_BINS - 1})::INTEGER AS bin, count(*), "
        f"count(*) FILTER (WHERE chosen) FROM ({marked}) GROUP BY bin ORDER BY bin",
        [low, width, *of],
    )
    components: list[Quantiles] = []
    for name in COMPONENTS:
        quantiles = f"quantile_cont({name}, [0.05, 0.25, 0.5, 0.75, 0.95])"
        everything, selected = reader.rows(
            f"SELECT {quantiles}, {quantiles} FILTER (WHERE chosen) FROM ({marked}) WHERE isfinite({name})",
            of,
        )[0]
        if everything is not None:
            components.append(
                Quantiles(
                    name=name, everything=tuple(everything), selected=None if selected is None else tuple(selected)
                )
            )
    return Values(
        cycle=int(cycle),
        items=sum(int(n) for _, n, _ in bins),
        selected=sum(int(n) for _, _, n in bins),
        bin_width=width,
        bins=[(low + b * width, int(n), int(chosen)) for b, n, chosen in bins],
        components=components,
    )


def _queue(reader: Reader) -> tuple[bool, int, list[Row]]:
    """Open tasks in their order; when there is none, the most valuable items that nobody was asked about."""
    text = f"left(i.content, {TEXT_CHARS}) AS content"
    is_open = "q.state IN ('planned', 'sent', 'confirmed')"
    total = int(reader.scalar(f"SELECT count(*) FROM queue q WHERE {is_open}"))
    if total:
        rows = _dicts(
            reader,
            f"SELECT q.item_id, q.state, q.cycle, q.value, q.reason, q.prediction, q.predictions, q.confidence, {text} "
            f"FROM queue q LEFT JOIN items i ON i.item_id = q.item_id WHERE {is_open} "
            f"ORDER BY q.cycle, q.rank, q.item_id LIMIT {QUEUE_ROWS}",
        )
        return True, total, rows
    valued = 'FROM "values" v JOIN items i ON i.item_id = v.item_id'
    open_ones = (
        'WHERE v.cycle = (SELECT max(cycle) FROM "values") AND isfinite(v.value) '
        "AND v.item_id NOT IN (SELECT item_id FROM queue) AND v.item_id NOT IN (SELECT item_id FROM gold_labels)"
    )
    rows = _dicts(
        reader,
        f"SELECT v.item_id, '' AS state, v.cycle, v.value, v.reason, {text}, p.confidence, "
        "CASE WHEN NOT k.multi_label THEN p.class_id END AS prediction, "
        f"{SUGGESTED} AS predictions "
        f"{valued} LEFT JOIN latest_predictions p ON p.item_id = v.item_id "
        "CROSS JOIN (SELECT coalesce(bool_or(multi_label), false) AS multi_label FROM classes) k "
        f"{open_ones} ORDER BY v.value DESC, v.item_id LIMIT {QUEUE_ROWS}",
    )
    return False, int(reader.scalar(f"SELECT count(*) {valued} {open_ones}")), rows


def _ingests(reader: Reader) -> list[Row]:
    return [
        {"committed_at": at, "seconds": seconds, "run_id": run_id, **json_object(detail)}
        for at, seconds, run_id, detail in reader.rows(
            "FROM (SELECT committed_at, seconds, run_id, detail FROM runs WHERE stage = 'ingest' "
            f"ORDER BY committed_at DESC, run_id LIMIT {NEWEST_ROWS}) ORDER BY committed_at"
        )
    ]


def _runs(reader: Reader) -> list[Row]:
    rows = _dicts(
        reader,
        "FROM (SELECT run_id, stage, rows_read, rows_written, seconds, committed_at FROM runs "
        f"ORDER BY committed_at DESC, run_id LIMIT {NEWEST_ROWS}) ORDER BY committed_at, run_id",
    )
    return [{**row, "rows_written": json_object(row["rows_written"])} for row in rows]
