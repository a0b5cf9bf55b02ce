"""`siftline predict`: what the end model says of texts that are not in the warehouse, and stay outside it."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.console import excerpt, out, print_table, say, stage_progress
from flows.cli.embed import tell_without_text
from flows.project import Project
from warehouse import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa

    from engine.client import Vectors
    from weak_labels.predictor import Predictor


def predict_texts(root: Path, texts: list[str]) -> None:
    """Print the label of each text, and how sure the end model is of it."""
    from features.embed import encode_texts

    if empty := [place for place, text in enumerate(texts, start=1) if not text.strip()]:
        raise SettingsError(f"Text {empty[0]} of {len(texts)} is empty. Give texts, or a file of them with --input.")
    project = Project(root)
    said = _learned(project).predict(encode_texts(project.encoder, texts), texts)
    rows = zip(said.labels, said.confidence.tolist(), map(excerpt, texts), strict=True)
    print_table(["label", "confidence", "text"], [(label or None, sure, text) for label, sure, text in rows])


def predict_file(root: Path, file: Path, output: Path, text_field: str, id_field: str | None) -> None:
    """Write the labels of a file of texts, and print how many there are of each class."""
    import pyarrow as pa

    from features.embed_file import embed_file, read_through

    project = Project(root)
    source = read_through(file, text_field=text_field, id_field=id_field, output=output)
    predictor = _learned(project)
    label = pa.list_(pa.string()) if project.multi_label else pa.string()
    probs = pa.struct([(name, pa.float32()) for name in project.classes])
    sure = defaultdict[str, list[float]](list)

    def columns(texts: list[str], vectors: "Vectors") -> list["pa.Array"]:
        said = predictor.predict(vectors, texts)
        for one, confidence in zip(said.labels, said.confidence.tolist(), strict=True):
            sure[", ".join(one) if isinstance(one, list) else one].append(confidence)
        by_class = [pa.array(column, pa.float32()) for column in said.probs.T]
        confidences = pa.array(said.confidence, pa.float32())
        return [pa.array(said.labels, label), confidences, pa.StructArray.from_arrays(by_class, fields=[*probs])]

    with stage_progress() as progress:
        count = embed_file(
            source,
            project.encoder,
            progress=progress.of("predict"),
            schema=pa.schema([("id", pa.string()), ("label", label), ("confidence", pa.float32()), ("probs", probs)]),
            columns=columns,
        )
    rows = sorted((-len(all_of), name, sum(all_of) / len(all_of)) for name, all_of in sure.items())
    print_table(["label", "texts", "mean confidence"], [(name or None, -less, mean) for less, name, mean in rows])
    out.print(f"{count:,} texts: {output}")
    tell_without_text(source.without_text)


def _learned(project: Project) -> "Predictor":
    from weak_labels.predictor import Predictor

    lake = project.read_lake()
    try:
        with lake.read() as reader:
            found = Predictor.of(reader, project.end_model_config)
    finally:
        lake.close()
    say(f"learned from: labels of people {found.gold_labels:,}, weak labels {found.weak_labels:,}")
    return found
