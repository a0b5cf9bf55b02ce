"""The tables of the warehouse, as data, with a comment on every column; the views stand in `warehouse.schema.views`.

This file is the reference for names and meanings. `migrations.py` creates what stands here and brings older
warehouses to it, the data dictionary is printed from it, and `content_hash` leaves out the columns marked as
bookkeeping.
"""

from collections.abc import Mapping
from dataclasses import dataclass

SCHEMA_VERSION = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column: DuckDB type and meaning.

    Attributes:
        bookkeeping: it does not count as content.
        optional: a write may leave it out, and it is empty then; while all of it is empty it does not count as content.
        on_replacement: an `Upsert` that replaces the row puts the time of its commit here.
    """

    name: str
    type: str
    comment: str
    bookkeeping: bool = False
    optional: bool = False
    on_replacement: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table: its columns and the columns that identify a row (empty: append-only, any number of equal rows)."""

    name: str
    key: tuple[str, ...]
    comment: str
    columns: tuple[Column, ...]

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """The table's own columns and the two that every commit adds."""
        return self.columns + COMMIT_COLUMNS


def _c(name: str, type: str, comment: str, *, bookkeeping: bool = False, optional: bool = False) -> Column:
    return Column(name=name, type=type, comment=comment, bookkeeping=bookkeeping, optional=optional)


COMMIT_COLUMNS = (
    _c("run_id", "VARCHAR", "Run of the stage that wrote this row (`runs.run_id`).", bookkeeping=True),
    _c("committed_at", "TIMESTAMPTZ", "When the commit of this row began.", bookkeeping=True),
)

TABLES: tuple[Table, ...] = (
    Table(
        name="classes",
        key=("class_id",),
        comment="The classes of the project; class_id is the number that labeling functions vote.",
        columns=(
            _c("class_id", "INTEGER", "0 to C-1; -1 is never a class, it is abstain."),
            _c("name", "VARCHAR", "Name of the class as in siftline.toml and in Label Studio."),
            _c(
                "multi_label",
                "BOOLEAN",
                "An item may have several classes or none; the same in every row, NULL or false where each has one.",
                optional=True,
            ),
        ),
    ),
    Table(
        name="items",
        key=("item_id",),
        comment="One row per record that was read and stored. Whoever deletes one by hand deletes its annotations "
        "and its row of the queue too: else old answers count where it is stored again.",
        columns=(
            _c("item_id", "VARCHAR", "The caller's id, else the content hash."),
            _c("content", "VARCHAR", "The record's text, byte for byte as read."),
            _c("content_hash", "VARCHAR", "sha256 of the content (UTF-8), hexadecimal."),
            _c("modality", "VARCHAR", "text."),
            _c("source", "VARCHAR", "Source it came from, as named in siftline.toml."),
            _c("position", "BIGINT", "Row or line in the source, counted from 1."),
            _c("metadata", "VARCHAR", "Fields that the source's `metadata` names, as a JSON object; {} without any."),
            _c("split", "VARCHAR", "train (may be selected for people), valid or test (never selected)."),
            Column(
                name="changed_at",
                type="TIMESTAMPTZ",
                comment="When the record was last read with another text, split or metadata; NULL where it never was.",
                bookkeeping=True,
                optional=True,
                on_replacement=True,
            ),
        ),
    ),
    Table(
        name="quarantine",
        key=("source", "position", "raw_hash"),
        comment="What could not be read as a record, where it stands and why.",
        columns=(
            _c("source", "VARCHAR", "Source it came from."),
            _c("position", "BIGINT", "Row or line in the source, counted from 1; 0 is the file as a whole."),
            _c("reason", "VARCHAR", "Short code of the reason, such as invalid_utf8."),
            _c("detail", "VARCHAR", "The reason in words."),
            _c("raw_hash", "VARCHAR", "sha256 of the raw bytes, hexadecimal."),
            _c("raw_bytes", "BIGINT", "Length of the raw record in bytes."),
        ),
    ),
    Table(
        name="vectors",
        key=("item_id", "encoder_id"),
        comment="Unit vectors of the items' contents.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("encoder_id", "VARCHAR", "Encoder; changes whenever any output bit could."),
            _c("content_hash", "VARCHAR", "Content that was embedded."),
            _c("vector", "FLOAT[]", "Unit vector."),
            _c("tokens", "INTEGER", "Tokens encoded, after truncation."),
            _c("truncated", "BOOLEAN", "The text was longer than the encoder's limit."),
            _c("active_frac", "FLOAT", "Share of the layer parameters that worked for this text, 0 to 1."),
            _c("route", "VARCHAR", "Route through the encoder as JSON; empty for a dense one."),
        ),
    ),
    Table(
        name="lf_votes",
        key=("item_id", "lf_name"),
        comment="Votes of labeling functions in force. An abstain has no row: see lf_applied for who was asked.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("lf_name", "VARCHAR", "Labeling function."),
            _c("lf_version", "VARCHAR", "Hash of the function's code and parameters."),
            _c("input_hash", "VARCHAR", "Hash of the item's content and metadata that was voted on."),
            _c("vote", "INTEGER", "class_id, 0 or more; a function that abstains leaves no row."),
        ),
    ),
    Table(
        name="lf_inputs",
        key=("item_id", "input"),
        comment="What has been put before the labeling functions, and when: the batch of an item's present content.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("input", "VARCHAR", "text (content and metadata), or the encoder_id for an item's vector."),
            _c("input_hash", "VARCHAR", "Hash of the item's content and metadata."),
            _c("batch", "INTEGER", "1, 2, ... in the order of the vote runs that brought new items.", bookkeeping=True),
        ),
    ),
    Table(
        name="lf_reach",
        key=("lf_name",),
        comment="How far each labeling function in force has got: coverage is its votes / items.",
        columns=(
            _c("lf_name", "VARCHAR", "Labeling function."),
            _c("lf_version", "VARCHAR", "Hash of the function's code and parameters."),
            _c("input", "VARCHAR", "What it looks at: text, or the encoder_id of the vectors."),
            _c("batch", "INTEGER", "It has been applied to all of lf_inputs up to this batch.", bookkeeping=True),
            _c("items", "INTEGER", "Items it has been applied to; those in lf_faults do not count."),
        ),
    ),
    Table(
        name="lf_faults",
        key=("item_id", "lf_name", "lf_version"),
        comment="Calls of labeling functions that raised or voted out of range; a fault is never an abstain.",
        columns=(
            _c("item_id", "VARCHAR", "Item; empty when the whole function failed or was switched off."),
            _c("lf_name", "VARCHAR", "Labeling function."),
            _c("lf_version", "VARCHAR", "Hash of the function's code and parameters."),
            _c("fault", "VARCHAR", "raised, out_of_range, not_a_vote, mutated, timeout or switched_off."),
            _c("detail", "VARCHAR", "The error in words."),
        ),
    ),
    Table(
        name="weak_labels",
        key=("item_id", "label_model_id"),
        comment="Class probabilities from the votes alone.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("label_model_id", "VARCHAR", "Fitted label model; one per change of votes or settings."),
            _c("probs", "FLOAT[]", "Class probabilities by class_id; they sum to 1, but not in a multi-label project."),
            _c("votes", "INTEGER", "Functions that did not abstain; 0 means the label is only the prior."),
        ),
    ),
    Table(
        name="predictions",
        key=("item_id", "end_model_id"),
        comment="Class probabilities of the end model.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("end_model_id", "VARCHAR", "Fitted end model; one per change of weak labels or gold."),
            _c("probs", "FLOAT[]", "Class probabilities by class_id; they sum to 1, but not in a multi-label project."),
            _c("class_id", "INTEGER", "Most probable class."),
            _c(
                "confidence",
                "FLOAT",
                "Its probability; in a multi-label project the lowest max(p, 1 - p): of the least sure yes or no.",
            ),
        ),
    ),
    Table(
        name="models",
        key=("model_id",),
        comment="One row per fitted label model or end model: what it learned from.",
        columns=(
            _c("model_id", "VARCHAR", "label_model_id or end_model_id."),
            _c("stage", "VARCHAR", "label_model or end_model."),
            _c("kind", "VARCHAR", "Kind of model, such as snorkel or logistic_regression."),
            _c("gold_labels", "INTEGER", "Gold labels it learned from."),
            _c("items", "INTEGER", "Items it learned from."),
            _c("sequence", "INTEGER", "1 for the first model of this stage, then 2, 3, ..."),
            _c("detail", "VARCHAR", "Parameters and learned figures as a JSON object."),
        ),
    ),
    Table(
        name="values",
        key=("item_id", "cycle"),
        comment="What a label of this item would be worth for the next selection.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("cycle", "INTEGER", "Selection this value was estimated for."),
            _c("value", "DOUBLE", "Expected worth on the stated scale, 0 to 1."),
            _c("representativeness", "DOUBLE", "How many unlabelled items it speaks for, scaled 0 to 1."),
            _c("uncertainty", "DOUBLE", "How unsure the end model is about it and its neighbours, 0 to 1."),
            _c("disagreement", "DOUBLE", "How much functions, label model and end model conflict, 0 to 1."),
            _c("redundancy", "DOUBLE", "How close the nearest labelled or queued item is, 0 to 1."),
            _c("reason", "VARCHAR", "The reason in words."),
            _c(
                "expected_seconds",
                "DOUBLE",
                "Seconds an answer is expected to take, learned from answers so far; NULL while fewer than 20 tell.",
                bookkeeping=True,
            ),
        ),
    ),
    Table(
        name="queue",
        key=("item_id", "project"),
        comment="The outbox: which items go to annotators and how far they are.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("project", "VARCHAR", "Annotation project."),
            _c("state", "VARCHAR", "planned, sent, confirmed or answered."),
            _c("cycle", "INTEGER", "Selection that chose it."),
            _c("rank", "INTEGER", "Place in its selection, 1 is the most valuable."),
            _c("value", "DOUBLE", "Value when it was chosen."),
            _c("reason", "VARCHAR", "Why it was chosen, in words."),
            _c("prediction", "INTEGER", "Class shown to the annotator as a suggestion, -1 for none."),
            _c("confidence", "FLOAT", "Confidence of the suggestion, as in predictions."),
            _c(
                "content_hash",
                "VARCHAR",
                "Hash of the content that was sent; where metadata was shown, its keys and a hash of both.",
            ),
            _c("task_id", "VARCHAR", "Task in the annotation service; empty until confirmed.", bookkeeping=True),
            _c(
                "predictions",
                "INTEGER[]",
                "Multi-label projects: classes shown as a suggestion, maybe none; NULL where nothing is suggested.",
                optional=True,
            ),
        ),
    ),
    Table(
        name="annotations",
        key=(),
        comment="Append-only history of what annotators said; the latest row of an annotation_id is in force.",
        columns=(
            _c("annotation_id", "VARCHAR", "Annotation in the annotation service.", bookkeeping=True),
            _c("item_id", "VARCHAR", "Item."),
            _c("project", "VARCHAR", "Annotation project; (imported) for labels that `siftline import` took."),
            _c("task_id", "VARCHAR", "Task in the annotation service.", bookkeeping=True),
            _c("annotator", "VARCHAR", "Who answered."),
            _c("action", "VARCHAR", "labelled, skipped or deleted."),
            _c("class_id", "INTEGER", "Chosen class; -1 when skipped or deleted, and in a multi-label project."),
            _c("simulated", "BOOLEAN", "Answered by the simulated annotator, not by a person."),
            _c("created_at", "TIMESTAMPTZ", "When it was first saved.", bookkeeping=True),
            _c("updated_at", "TIMESTAMPTZ", "When this state of it was saved.", bookkeeping=True),
            _c("seconds", "DOUBLE", "Seconds the annotator spent; 0 where unknown.", bookkeeping=True),
            _c(
                "class_ids",
                "INTEGER[]",
                "Multi-label projects: the chosen classes, ascending; [] says that the item has none of them. NULL "
                "elsewhere.",
                optional=True,
            ),
        ),
    ),
    Table(
        name="asked_before",
        key=("item_id", "project", "round"),
        comment="Earlier tasks of items that people were asked about again; the present task is in queue. Beside them "
        "what imported labels are about.",
        columns=(
            _c("item_id", "VARCHAR", "Item."),
            _c("project", "VARCHAR", "Annotation project."),
            _c("round", "INTEGER", "1 for the first task of the item, then 2, 3, ..."),
            _c("task_id", "VARCHAR", "That task in the annotation service.", bookkeeping=True),
            _c("content_hash", "VARCHAR", "As in queue, of what was sent in that task."),
            _c("why", "VARCHAR", "Why it was asked again: edited, disagreement or second_look; or imported."),
        ),
    ),
    Table(
        name="annotator_skills",
        key=("annotator",),
        comment="How right each annotator is, estimated where several answered; see the view annotators.",
        columns=(
            _c("annotator", "VARCHAR", "Who answered."),
            _c(
                "accuracy",
                "DOUBLE",
                "Estimated share of right labels, 0 to 1; in a multi-label project of right answers, a yes or no for "
                "each class, which is high for whoever overlooks rare classes: see sensitivity. None for a reviewer, "
                "whose answers decide and judge nobody.",
            ),
            _c(
                "weight",
                "DOUBLE",
                "Log-odds by which an opinion counts: ln(accuracy (C - 1) / (1 - accuracy)), in a multi-label project "
                "that by which a yes counts; 1000 for a reviewer.",
            ),
            _c("compared", "INTEGER", "Items it was estimated on: those with another opinion."),
            _c(
                "weight_no",
                "DOUBLE",
                "Multi-label projects: log-odds by which a no counts, which says that the item has not the class. NULL "
                "elsewhere and for a reviewer, where weight is that of both.",
                optional=True,
            ),
            _c(
                "sensitivity",
                "DOUBLE",
                "Multi-label projects: estimated share of the classes an item has that the annotator names, 0 to 1; "
                "NULL elsewhere and for a reviewer.",
                optional=True,
            ),
        ),
    ),
    Table(
        name="metrics",
        key=("metric_id",),
        comment="One row per figure.",
        columns=(
            _c("metric_id", "VARCHAR", "series/name/split/labels/seed, and the model's id for series end_model."),
            _c(
                "series",
                "VARCHAR",
                "What was measured: siftline (the end model), end_model (what each was scored with itself), a rival "
                "(random, gold_only, random_gold_only, all_gold), label_model, label_model_covered (on items that a "
                "function voted on), or annotators.",
            ),
            _c("name", "VARCHAR", "accuracy, macro_f1, micro_f1, calibration_error or krippendorff_alpha."),
            _c("split", "VARCHAR", "Split it was measured on."),
            _c("labels", "INTEGER", "Gold labels used."),
            _c("seed", "INTEGER", "Seed of a repeated measurement, else 0."),
            _c("value", "DOUBLE", "The figure; NULL for an agreement that is not defined any more."),
            _c(
                "detail",
                "VARCHAR",
                "Further figures as a JSON object; of an accuracy `confusion`: a list per true class, in it the items "
                "by predicted class.",
            ),
        ),
    ),
    Table(
        name="runs",
        key=("token",),
        comment="One row per committed stage run.",
        columns=(
            _c("token", "VARCHAR", "Idempotence token: hash of the fingerprint and the stage's token before it."),
            _c("fingerprint", "VARCHAR", "Hash of the stage's name, code version, settings and input versions."),
            _c("stage", "VARCHAR", "Stage."),
            _c("tables", "VARCHAR[]", "Tables it wrote."),
            _c("rows_read", "BIGINT", "Rows or records it worked on."),
            _c("rows_written", "VARCHAR", "Rows written per table as a JSON object."),
            _c("detail", "VARCHAR", "Further counts as a JSON object."),
            _c("started_at", "TIMESTAMPTZ", "When the stage began.", bookkeeping=True),
            _c("seconds", "DOUBLE", "From its beginning to its commit.", bookkeeping=True),
            _c("siftline_version", "VARCHAR", "Version that wrote it.", bookkeeping=True),
            _c("author", "VARCHAR", "Who ran it; empty for runs of schema 1.", bookkeeping=True),
            _c(
                "content_hash",
                "VARCHAR",
                "sha256 of the rows written per table, in any order, as a JSON object; {} for runs of schema 1.",
                bookkeeping=True,
            ),
        ),
    ),
    Table(
        name="schema_migrations",
        key=("version",),
        comment="Schema versions applied to this warehouse.",
        columns=(
            _c("version", "INTEGER", "Schema version that the warehouse has since."),
            _c("effect", "VARCHAR", "What the migration changed."),
        ),
    ),
)

TABLE_BY_NAME = {t.name: t for t in TABLES}


def rows_in_words(counts: Mapping[str, int]) -> str:
    """Rows by table, in words: 1 model, 300 predictions."""
    return ", ".join(f"{n:,} {_one(table) if n == 1 else table}" for table, n in counts.items())


def _one(table: str) -> str:
    return "class" if table == "classes" else table.removesuffix("s")
