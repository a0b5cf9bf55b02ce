"""The view of the learning curve shows the split that the project scores, whatever its name."""

import pyarrow as pa

from warehouse import Lake, Upsert


def score(lake: Lake, split: str, accuracy: dict[int, float]) -> None:
    """Accuracies by number of gold labels, of ours and, 0.1 lower in the mean, of random picks."""
    rows = [
        {"metric_id": f"{series}/accuracy/{split}/{labels}/{seed}", "series": series, "name": "accuracy",
         "split": split, "labels": labels, "seed": seed, "value": value - less, "detail": "{}"}
        for labels, value in accuracy.items()
        for series, seed, less in (("siftline", 0, 0.0), ("random", 0, 0.02), ("random", 1, 0.18))
    ]  # fmt: skip
    with lake.stage("evaluate", version=1, inputs=(), params={"split": split}) as stage:
        stage.commit([Upsert("metrics", pa.Table.from_pylist(rows))])


def test_the_split_that_was_scored_last_is_shown(lake: Lake) -> None:
    models = [
        {"model_id": f"m{n}", "stage": "end_model", "kind": "k", "gold_labels": 16 * n, "items": 9, "sequence": n + 1,
         "detail": "{}"} for n in range(3)
    ]  # fmt: skip
    with lake.stage("end_model", version=1, inputs=()) as stage:
        stage.commit([Upsert("models", pa.Table.from_pylist(models))])

    def curve() -> list[tuple[int, float | None, float | None, str | None]]:
        with lake.read() as reader:
            return reader.rows(
                "SELECT gold_labels, round(test_accuracy, 2), round(random_accuracy, 2), split FROM cycle_summary"
            )

    assert curve() == [(0, None, None, None), (16, None, None, None), (32, None, None, None)]
    score(lake, "valid", {0: 0.7, 16: 0.8})
    assert curve() == [(0, 0.7, 0.6, "valid"), (16, 0.8, 0.7, "valid"), (32, None, None, None)]
    score(lake, "test", {0: 0.6, 16: 0.9, 32: 0.95})
    assert curve() == [(0, 0.6, 0.5, "test"), (16, 0.9, 0.8, "test"), (32, 0.95, 0.85, "test")]


def test_a_model_that_was_scored_keeps_its_score_where_that_of_its_labels_is_gone(lake: Lake) -> None:
    """As it goes where labels became one class again: the split was taken from there alone, and the view was empty."""
    model = {"model_id": "m", "stage": "end_model", "kind": "k", "gold_labels": 16, "items": 9, "sequence": 1}
    figure = {"metric_id": "e", "series": "end_model", "name": "accuracy", "split": "test", "labels": 16, "seed": 0}
    with lake.stage("evaluate", version=1, inputs=()) as stage:
        stage.commit(
            [
                Upsert("models", pa.Table.from_pylist([model | {"detail": "{}"}])),
                Upsert("metrics", pa.Table.from_pylist([figure | {"value": 0.9, "detail": '{"model_id": "m"}'}])),
            ]
        )
    with lake.read() as reader:
        assert reader.rows("SELECT test_accuracy, split, replayed FROM cycle_summary") == [(0.9, "test", False)]
