"""The simulated annotator: answers tasks from a sample's gold column, for demos and measurements.

Its answers go through the same annotation service as a person's and are marked as simulated everywhere. Besides the
scoring stage this is the only module that opens the gold file.
"""

import hashlib
import math
from pathlib import Path

from active.annotation.service import SIMULATED, AnnotationService
from features.readers.label_file import one_class, read_label_file
from features.readers.label_items import labelled_items
from warehouse import Lake

WORDS_PER_S = 4.0  # silent reading of English, 238 words a minute: Brysbaert 2019, doi:10.1016/j.jml.2019.104047
DECISION_S = 3.0
SPREAD = 0.25


class SimulatedAnnotator:
    """Answers open tasks as a person who is always right, in a plausible time.

    Args:
        gold: file with the columns id or text, and label, see `features.readers.label_file`.
        seed: of the time spent, which varies around reading time plus decision time.
        multi_label: an item may have several classes or none.
        ids: further names of the file's column of ids.
        texts: further names of its column of texts.

    Raises:
        DataError: the file cannot be read, has other columns, or gives an item several classes where each has one.
    """

    def __init__(
        self,
        gold: Path,
        *,
        seed: int,
        multi_label: bool = False,
        ids: tuple[str, ...] = (),
        texts: tuple[str, ...] = (),
    ) -> None:
        self._rows = [
            (row, row.labels if multi_label else (one_class(gold, row.about, row.labels),))
            for row in read_label_file(gold, ids=ids, texts=texts, what="gold file")
            if row.labels or (row.labels is not None and multi_label)
        ]
        self._seed = seed

    def answer(self, lake: Lake, service: AnnotationService, project: str) -> int:
        """Answer every confirmed task of a project that has no answer yet and whose label is known.

        Returns:
            How many tasks it answered.
        """
        with lake.read() as reader:
            tasks = reader.rows(
                """
                SELECT q.item_id, q.task_id, i.content FROM queue q JOIN items i ON i.item_id = q.item_id
                WHERE q.project = ? AND q.state = 'confirmed' ORDER BY q.cycle, q.rank
                """,
                [project],
            )
        if not tasks:
            return 0
        answered = {answer.task_id for answer in service.pull()}
        labels = self._labels(lake)
        count = 0
        for item_id, task_id, content in tasks:
            if task_id in answered or item_id not in labels:
                continue
            seconds = seconds_to_answer(item_id, content, self._seed)
            service.annotate(task_id, labels=labels[item_id], annotator=SIMULATED, seconds=seconds)
            count += 1
        return count

    def unknown(self, lake: Lake, project: str) -> int:
        """How many open tasks of a project are of items whose label is not known here."""
        with lake.read() as reader:
            open_ = reader.rows("SELECT item_id FROM queue WHERE project = ? AND state <> 'answered'", [project])
        labels = self._labels(lake)
        return sum(item_id not in labels for (item_id,) in open_)

    def _labels(self, lake: Lake) -> dict[str, tuple[str, ...]]:
        """Labels by item."""
        with lake.read() as reader:
            items = labelled_items(reader, [row for row, _ in self._rows])
        return {item_id: names for row, names in self._rows for item_id in items.about(row)}


def seconds_to_answer(item_id: str, content: str, seed: int) -> float:
    """Time to read a text and decide, log-normal around reading speed; the same for the same item and seed."""
    digest = hashlib.sha256(f"{seed}:{item_id}".encode()).digest()
    first, second = (int.from_bytes(digest[k : k + 8], "big") / 2**64 for k in (0, 8))
    normal = math.sqrt(-2 * math.log(1 - first)) * math.cos(2 * math.pi * second)  # Box and Muller 1958
    return round((len(content.split()) / WORDS_PER_S + DECISION_S) * math.exp(SPREAD * normal), 1)
