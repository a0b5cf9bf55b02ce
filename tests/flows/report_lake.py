"""A small warehouse with every table filled, and hostile texts wherever the data can put one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.lakes import copy_of
from warehouse import Append, Lake, Upsert
from warehouse.queries.reader import matrix_to_list_array

HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> {{7*7}} </script> "
    "\x1b[31mred\x1b[0m \u202egnp.exe\u202c \u2028 ]]> & \" ' <!-- "
)
CLASSES = ("grain", "ship <b>&", "trade")
LABELS = (0, 8, 16)
SEEDS = 5
ITEMS, TEST_ITEMS = 90, 30
SECONDS = 12.5
EXPECTED = 9.5


def accuracy(series: str, labels: int, seed: int = 0) -> float:
    """The made-up score of a series; every one differs."""
    base = {"siftline": 0.9, "random": 0.86, "gold_only": 0.6, "random_gold_only": 0.55, "label_model": 0.8}
    return base.get(series, 0.95) + labels / 2000 + seed / 200


def _hash(item_id: str) -> str:
    """Content hash of an item: any order, not that of the ids."""
    return f"{int(item_id[1:]) * 7919 % 997:04d}"


def add_items(lake: Lake, *, items: int = ITEMS, classes: tuple[str, ...] = CLASSES) -> None:
    """Items of the train and test split, the classes, and a quarantine."""
    ids = [f"i{n:03d}" for n in range(items)]
    texts = [f"text {n} about {classes[n % len(classes)]}" + (HOSTILE if n % 3 == 0 else "") for n in range(items)]
    with lake.stage("ingest", version=1, inputs=()) as stage:
        stage.commit(
            [
                _up("classes", class_id=list(range(len(classes))), name=list(classes)),
                _up(
                    "items",
                    item_id=ids,
                    content=texts,
                    content_hash=[_hash(item_id) for item_id in ids],
                    modality=["text"] * items,
                    source=["file <b>"] * items,
                    position=list(range(1, items + 1)),
                    metadata=["{}"] * items,
                    split=["train" if n < items - TEST_ITEMS or items <= TEST_ITEMS else "test" for n in range(items)],
                ),
                _up(
                    "quarantine",
                    source=["file <b>"] * 3,
                    position=[0, 4, 9],
                    reason=["empty_file", "invalid_utf8", "invalid_utf8"],
                    detail=["nothing in it", HOSTILE, HOSTILE],
                    raw_hash=["a", "b", "c"],
                    raw_bytes=[0, 5, 6],
                ),
            ],
            rows_read=items + 5,
            detail={"read": items + 5, "stored": items, "quarantined": 3, "duplicate": 2},
        )


def add_vectors(lake: Lake, *, encoder: str = "dense <b>", unread: float = 0.0) -> None:
    """Unit vectors of all items, of whose texts the encoder cannot read a share."""
    with lake.stage("embed", version=1, inputs=("items",), params={"encoder": encoder}) as stage:
        ids = [str(i) for (i,) in stage.rows("SELECT item_id FROM items ORDER BY item_id")]
        vectors = np.random.default_rng(0).normal(size=(len(ids), 16)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        table = _up(
            "vectors",
            item_id=ids,
            encoder_id=[encoder] * len(ids),
            content_hash=["h"] * len(ids),
            vector=matrix_to_list_array(vectors),
            tokens=[7] * len(ids),
            truncated=[False] * len(ids),
            active_frac=[1.0] * len(ids),
            route=[""] * len(ids),
        )
        stage.commit([table], rows_read=len(ids), detail={"unread": unread} if unread else {})


def full_project(folder: Path) -> Path:
    """A project whose warehouse is `full_lake`."""
    named = f'[project]\nname = "p <b>"\nclasses = {json.dumps(CLASSES)}\n'  # as in the lake
    (folder / "siftline.toml").write_text(named + '[[sources]]\nname = "s"\npath = "s.csv"\n', "utf-8")
    full_lake(folder / "lake").close()
    return folder


def full_lake(path: Path, *, simulated: bool = True) -> Lake:
    """A warehouse after two cycles of eight labels, with a third batch of four waiting."""
    return copy_of(_simulated if simulated else _of_people, path)


def _simulated(path: Path) -> Lake:
    return _full_lake(path, simulated=True)


def _of_people(path: Path) -> Lake:
    return _full_lake(path, simulated=False)


def _full_lake(path: Path, *, simulated: bool) -> Lake:
    lake = Lake(path)
    add_items(lake)
    add_vectors(lake)
    ids = [f"i{n:03d}" for n in range(ITEMS)]
    functions = ("lf_ship", "lf_" + HOSTILE)
    with lake.stage("vote", version=1, inputs=("items",)) as stage:
        votes = [(item, name, (n if n % 2 else -1) % 3) for n, item in enumerate(ids) for name in functions]
        names = [name for _, name, _ in votes]
        stage.commit(
            [
                _up(
                    "lf_votes",
                    item_id=[item for item, _, _ in votes],
                    lf_name=names,
                    lf_version=["1"] * len(votes),
                    input_hash=["h"] * len(votes),
                    vote=[vote for _, _, vote in votes],
                ),
                _up(
                    "lf_faults",
                    item_id=["i001"],
                    lf_name=[functions[1]],
                    lf_version=["1"],
                    fault=["raised"],
                    detail=[HOSTILE],
                ),
            ]
        )
    for cycle, labels in enumerate(LABELS):
        probs = np.full((ITEMS, 3), 0.1, np.float32)
        probs[np.arange(ITEMS), np.arange(ITEMS) % 3] = 0.8
        with lake.stage("end_model", version=1, inputs=(), params={"cycle": cycle}) as stage:
            model = _up(
                "models",
                model_id=[f"m{cycle}"],
                stage=["end_model"],
                kind=["logistic_regression"],
                gold_labels=[labels],
                items=[40],
                sequence=[cycle + 1],
                detail=["{}"],
            )
            predictions = _up(
                "predictions",
                item_id=ids,
                end_model_id=[f"m{cycle}"] * ITEMS,
                probs=matrix_to_list_array(probs),
                class_id=[n % 3 for n in range(ITEMS)],
                confidence=[0.8] * ITEMS,
            )
            stage.commit([model, predictions])
        _add_cycle(lake, cycle + 1, answered=cycle < 2, simulated=simulated)
    _add_metrics(lake)
    return lake


def _add_cycle(lake: Lake, cycle: int, *, answered: bool, simulated: bool) -> None:
    pool = [f"i{n:03d}" for n in range(8 * (cycle - 1), ITEMS - TEST_ITEMS)]
    chosen = pool[: 8 if answered else 4]
    n = len(pool)
    worth = [1 - k / 100 for k in range(n)]
    with lake.stage("value", version=1, inputs=(), params={"cycle": cycle}) as stage:
        stage.commit(
            [
                _up(
                    "values",
                    item_id=pool,
                    cycle=[cycle] * n,
                    value=worth,
                    representativeness=worth,
                    uncertainty=[0.5] * n,
                    disagreement=[0.0] * n,
                    redundancy=[0.25] * n,
                    expected_seconds=[None if cycle == 1 else EXPECTED] * n,
                    reason=[f"reason {HOSTILE}"] * n,
                )
            ]
        )
    m = len(chosen)
    with lake.stage("select", version=1, inputs=(), params={"cycle": cycle}) as stage:
        stage.commit(
            [
                _up(
                    "queue",
                    item_id=chosen,
                    project=["p <b>"] * m,
                    state=["answered" if answered else "confirmed"] * m,
                    cycle=[cycle] * m,
                    rank=list(range(1, m + 1)),
                    value=worth[:m],
                    reason=[f"reason {HOSTILE}"] * m,
                    prediction=[0] * m,
                    confidence=[0.8] * m,
                    content_hash=[_hash(item_id) for item_id in chosen],
                    task_id=[f"t{i}" for i in chosen],
                )
            ],
            detail={"cycle": cycle},
        )
    if not answered:
        return
    with lake.stage("collect", version=1, inputs=(), params={"cycle": cycle}) as stage:
        rows = pa.table(
            {
                "annotation_id": [f"a{i}" for i in chosen],
                "item_id": chosen,
                "project": ["p <b>"] * m,
                "task_id": [f"t{i}" for i in chosen],
                "annotator": ["ann <b>"] * m,
                "action": ["labelled"] * m,
                "class_id": [int(i[1:]) % 3 for i in chosen],
                "simulated": [simulated] * m,
                "created_at": [stage.started_at] * m,
                "updated_at": [stage.started_at] * m,
                "seconds": [SECONDS] * m,
            }
        )
        stage.commit([Append("annotations", rows)])


def _add_metrics(lake: Lake) -> None:
    rows: list[dict[str, Any]] = []
    confusion = [[9, 1, 0], [0, 8, 2], [1, 0, 9]]
    for series in ("siftline", "random", "gold_only", "random_gold_only", "label_model", "all_gold"):
        for labels in (60,) if series == "all_gold" else LABELS if series == "siftline" else LABELS[1:]:
            for seed in range(SEEDS if series.startswith("random") else 1):
                for name, less in (("accuracy", 0.0), ("macro_f1", 0.05), ("calibration_error", 0.5)):
                    rows.append(
                        {
                            "metric_id": f"{series}/{name}/test/{labels}/{seed}",
                            "series": series,
                            "name": name,
                            "split": "test",
                            "labels": labels,
                            "seed": seed,
                            "value": accuracy(series, labels, seed) - less,
                            "detail": json.dumps({"confusion": confusion} if series == "siftline" else {}),
                        }
                    )
    with lake.stage("evaluate", version=1, inputs=()) as stage:
        stage.commit([Upsert("metrics", pa.Table.from_pylist(rows))])


def _up(table: str, **columns: Any) -> Upsert:
    return Upsert(table, pa.table(columns))
