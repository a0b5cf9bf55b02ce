"""The end model of a multi-label project beside its label model, by the number of people's labels.

    python -m benchmarks.multi_label [--seeds 5] [--max-tokens 128] [--output FILE]

The texts are digests of none, one or two Reuters news (`tests/digests.py`, which names the labeling functions), other
digests for every seed. The stages of a project embed them, vote and fit the label model without people's labels. Labels
are those of train digests picked at random; all figures are of the test digests, whose news are in no train digest.
With `--max-tokens 48` the encoder hardly sees the second news of a digest, labeling functions always do.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import command, environment, mean_and_sd, write_json
from features.ingest.samples import get_sample
from flows.pipelines.stages import run_stage_in_process
from flows.project.project import Project
from tests.digests import make_digest_project
from warehouse import Lake
from weak_labels.analysis.gold_file import read_gold
from weak_labels.analysis.scores import score_sets
from weak_labels.classifiers.one_vs_rest import truth
from weak_labels.end_model.training_data import read_training_data

SIZES = (0, 32, 128, 512)
TRAIN, TEST = 600, 400
FIGURES = ("micro_f1", "macro_f1", "accuracy", "calibration_error")


def main() -> None:
    """Measure, print a table in Markdown and write JSON where asked."""
    parser = command(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    given = parser.parse_args()
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sample = get_sample("reuters-r8", Path(folder) / "news")
        for seed in range(given.seeds):
            root = Path(folder) / str(seed)
            make_digest_project(root, sample, train=TRAIN, test=TEST, seed=seed)
            settings = root / "siftline.toml"
            text = settings.read_text("utf-8").replace("max_tokens = 48", f"max_tokens = {given.max_tokens}")
            settings.write_text(text, "utf-8")
            for row, figures in _measure(root, seed).items():
                found.setdefault(row, []).append(figures)
    rows = [
        {"series": series, "labels": n} | {name: mean_and_sd([one[name] for one in of]) for name in FIGURES}
        for (series, n), of in found.items()
    ]
    print("| series | labels |", " | ".join(FIGURES), "|\n|---|---:|" + "---:|" * len(FIGURES))
    for row in rows:
        cells = [f"{row[name]['mean']:.3f} ± {row[name]['sd']:.3f}" for name in FIGURES]
        print("|", row["series"], "|", row["labels"], "|", " | ".join(cells), "|")
    if given.output:
        write_json(
            {**environment(), "seeds": given.seeds, "max_tokens": given.max_tokens, "figures": rows}, given.output
        )


def _measure(root: Path, seed: int) -> dict[tuple[str, int], dict[str, float]]:
    """Figures of one project by series and number of labels."""
    project = Project(root)
    run = run_stage_in_process(project)
    for stage in ("ingest", "embed", "vote", "label_model"):
        run(stage)
    config = project.end_model_config
    assert project.evaluate_config is not None
    with Lake(root / "lake", read_only=True) as lake, lake.read() as reader:
        data = read_training_data(reader, config)
        gold = read_gold(reader, project.evaluate_config).class_of
        heads: Any = data.heads(config)
        without: Any = data.heads(config, weak=False)
    sets = truth([gold[item_id] for item_id in data.item_ids], len(config.classes), multi_label=True).astype(np.bool_)
    test, train = np.flatnonzero(~data.train), np.flatnonzero(data.train)

    def figures(probs: Any) -> dict[str, float]:
        return {name: value for name, value, _ in score_sets(sets[test], probs)}

    order = np.random.default_rng(seed).permutation(train)
    found = {("label model", 0): figures(data.probs[test])}
    for size in SIZES:
        picked = np.sort(order[:size])
        model = heads.learned(picked, sets[picked]).model
        alone = replace(model, weighed=(None,) * len(config.classes))
        found["end model", size] = figures(model.predict_proba(heads.features[test]))
        found["end model without votes beside", size] = figures(alone.predict_proba(heads.features[test]))
        if size:
            gold_only = without.learned(picked, sets[picked], from_weak=False).model
            found["people's labels only", size] = figures(gold_only.predict_proba(without.features[test]))
    return found


if __name__ == "__main__":
    main()
