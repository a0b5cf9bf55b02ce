"""A small real multi-label project: digests of one or two Reuters news, whose classes are those of their news.

News about companies only (acq, earn) have none of the classes. So every label is known by how its digest was made, and
a digest can have no class, one or two.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from features.ingest.samples import SampleFiles

CLASSES = ("crude", "grain", "ship", "trade")
WORDS = 40
"""Of each news; news put what they are about first."""

FUNCTIONS = """
from weak_labels import keywords

oil = keywords("crude", ["oil", "crude", "barrel", "barrels", "opec", "petroleum"])
energy = keywords("crude", ["bpd", "refinery", "energy", "gulf"])
wheat = keywords("grain", ["wheat", "corn", "grain", "grains", "maize", "barley", "soybean"])
crops = keywords("grain", ["crop", "harvest", "usda", "agriculture", "farmers"])
vessels = keywords("ship", ["ship", "ships", "vessel", "vessels", "tanker", "shipping"])
ports = keywords("ship", ["port", "ports", "strike", "cargo", "seamen"])
deficit = keywords("trade", ["trade", "deficit", "surplus", "tariff", "tariffs", "exports"])
"""

SETTINGS = """
[project]
name = "digests"
classes = ["crude", "grain", "ship", "trade"]
multi_label = true

[[sources]]
name = "digests"
path = "data/items.jsonl"
text = "text"
id = "id"
split = "split"

[encoder]
max_tokens = 48

[weak_labels]
functions = "labeling_functions.py"

[select]
batch = 8
budget = 16

[annotate]
service = "folder"
gold = "data/gold.jsonl"

[evaluate]
gold = "data/gold.jsonl"
rival_seeds = 1
"""


def make_digest_project(folder: Path, reuters: SampleFiles, *, train: int = 160, test: int = 60, seed: int = 0) -> Path:
    """Write the project; the same digests for the same numbers."""
    (folder / "data").mkdir(parents=True)
    items, gold = pq.read_table(reuters.items), pq.read_table(reuters.gold)
    label_of = dict(zip(gold.column("id").to_pylist(), gold.column("label").to_pylist(), strict=True))
    generator = np.random.default_rng(seed)
    rows, labels = [], []
    for split, count in (("train", train), ("test", test)):
        texts: dict[str, list[str]] = {}
        for item_id, text, of in zip(*(items.column(c).to_pylist() for c in ("id", "text", "split")), strict=True):
            kind = "none" if label_of[item_id] in ("acq", "earn") else label_of[item_id]
            if of == split:
                texts.setdefault(kind, []).append(" ".join(text.split()[:WORDS]))
        for number in range(count):
            size = generator.choice([0, 1, 2], p=[0.3, 0.4, 0.3])
            chosen = sorted(generator.choice(CLASSES, size, replace=False).tolist())
            parts = [str(generator.choice(texts[name])) for name in chosen or ["none"]]
            generator.shuffle(parts)
            item_id = f"{split}-{number:04d}"
            rows.append({"id": item_id, "text": "\n\n".join(parts), "split": split})
            labels.append({"id": item_id, "label": chosen})
    for name, lines in (("items", rows), ("gold", labels)):
        (folder / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), "utf-8")
    (folder / "siftline.toml").write_text(SETTINGS, "utf-8")
    (folder / "labeling_functions.py").write_text(FUNCTIONS, "utf-8")
    return folder
