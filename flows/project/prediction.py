"""What a project learned, for texts that are no items and stay outside its warehouse."""

from collections.abc import Iterable, Mapping, Set
from functools import partial
from pathlib import Path
from typing import Any, cast

from engine.protocol import Vectors
from features.embedding.stage import encode_texts
from flows.project.project import Project
from warehouse import Reader, SettingsError
from weak_labels.analysis.text_votes import vote_on_texts
from weak_labels.applying.stage import version_in_force
from weak_labels.end_model.predictor import Predictor, Said
from weak_labels.functions.types import LabelingFunction


class TextPredictor:
    """The end model of a project as its last run learned it.

    It says of a text what `predictions` say of an item of that text that is not learned from. Where the votes on an
    item count, in a multi-label project, it calls the labeling functions, which see no metadata.

    Args:
        root: folder that holds siftline.toml.
        ask: call functions made by `prompt` too; each answer is paid for.

    Attributes:
        project: the project.
        notes: what somebody who relies on it should know, such as that answers came in since; a sentence each.
        failed: labeling functions that failed so far, by name: on how many texts, and how first.

    Raises:
        SettingsError: there is nothing to learn from yet, or the settings or labeling functions are wrong.
        WarehouseNotFound: there was no run yet.
    """

    def __init__(self, root: Path | str, *, ask: bool = False) -> None:
        if not isinstance(cast("object", root), Path | str):
            raise SettingsError(f"The project is {root!r}; give the folder that holds siftline.toml.")
        self.project = Project(Path(root))
        self.notes: list[str] = []
        self.failed: dict[str, tuple[int, str]] = {}
        self._ask = ask
        lake = self.project.read_lake()
        try:
            with lake.read() as reader:
                self._learned = Predictor.of(reader, self.project.end_model_config)
                if self._learned.is_behind(reader):
                    self.notes.append(
                        "People's labels have changed since this was learned. To learn from them: siftline run"
                    )
                self._functions = self._functions_that_count(reader)
        finally:
            lake.close()

    @property
    def learned_from(self) -> str:
        """From how much it learned, in words."""
        learned = self._learned
        now = "; learned just now, as what the last run learned is not kept here" if learned.anew else ""
        return f"labels of people {learned.gold_labels:,}, weak labels {learned.weak_labels:,}{now}"

    def predict(self, texts: Iterable[str]) -> Said:
        """Say what some texts are: a list of them, or a column of a frame.

        Raises:
            SettingsError: they are no list of texts, or a text is empty.
            DataError: the encoder refuses a text.
        """
        checked = check_texts(texts)
        return self.predict_encoded(checked, encode_texts(self.project.encoder, checked))

    def predict_encoded(self, texts: list[str], vectors: Vectors) -> Said:
        """As `predict`, by vectors of the project's encoder [N, D]."""
        if not self._functions:
            return self._learned.predict(vectors, texts)
        client = self.project.prompt_client if self._ask else None
        told = vote_on_texts(
            self._functions,
            texts,
            vectors,
            self.project.vote_config,
            encode=partial(encode_texts, self.project.encoder),
            ask=client.ask if client is not None else None,
        )
        for name, (count, first) in told.failed.items():
            before, first = self.failed.get(name, (0, first))
            self.failed[name] = before + count, first
        return self._learned.predict(vectors, texts, told.votes)

    def _functions_that_count(self, reader: Reader) -> list[LabelingFunction]:
        """The labeling functions whose votes the end model weighs; notes what is not as the last run had it."""
        if not (names := self._learned.functions):
            if self.project.multi_label and self._learned.weak_labels:  # learned by a Siftline that did not keep it
                self.notes.append("Votes on texts do not count yet. To have it learned how they do: siftline run")
            return []
        applied = dict(reader.rows("SELECT lf_name, lf_version FROM lf_reach"))
        found = {function.name: function for function in self.project.functions if function.name in names}
        config = self.project.vote_config
        if changed := [
            name for name, function in found.items() if applied.get(name) != version_in_force(function, config)
        ]:
            self.notes.append(
                f"Labeling functions that changed since this was learned: {', '.join(changed)}. They vote as they are "
                "now and count as before. To learn from them: siftline run"
            )
        if gone := [name for name in names if name not in found]:
            self.notes.append(
                f"Labeling functions that are gone since this was learned: {', '.join(gone)}. They do not vote. To "
                "learn without them: siftline run"
            )
        asking = [name for name, function in found.items() if function.kind == "prompt"]
        if asking and not self._ask:
            self.notes.append(
                f"Left out, because each answer is paid for: {', '.join(asking)}. Add --ask to ask them too."
            )
        return [function for name, function in found.items() if self._ask or name not in asking]


def check_texts(texts: object) -> list[str]:
    """The texts as a list, when all of them can be asked about.

    Raises:
        SettingsError: these are no list of texts, or one is none or empty; it names the first.
    """
    if isinstance(texts, str | bytes):  # its letters would be the texts
        raise SettingsError("The texts are one string; give a list: predict([text]).")
    if isinstance(texts, Mapping) or getattr(texts, "ndim", 1) != 1:
        raise SettingsError(f"The texts are a {type(texts).__name__}; give one column of it: predict(frame['text']).")
    if isinstance(texts, Set):
        raise SettingsError("The texts are a set, whose order is another one each time; give a list: predict([text]).")
    column: Any = texts
    listed: object = column.to_pylist() if hasattr(texts, "to_pylist") else texts
    if not isinstance(listed, Iterable):
        raise SettingsError(f"The texts are {texts!r}; give a list: predict([text]).")
    checked = list(cast("Iterable[object]", listed))
    for place, text in enumerate(checked, start=1):
        if not isinstance(text, str):
            raise SettingsError(f"Text {place} of {len(checked)} is {text!r}, which is no text. Leave it out.")
        if not text.strip():
            raise SettingsError(f"Text {place} of {len(checked)} is empty. Give texts, or a file of them with --input.")
    return cast("list[str]", checked)
