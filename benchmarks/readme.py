"""Writes figures from the benchmarks' JSON into the documents, so that nobody types them.

    python -m benchmarks.readme

README.md gets the demo's, the selection's and the verdicts on the encoder's claim; weak_labels/README.md and
engine/README.md get theirs. The pages and pictures in docs/benchmarks are written from the JSON beside them.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks import apply, demo, drawn_functions, int8, label_studio, prefect_memory
from benchmarks.engine import verdicts as engine
from benchmarks.harness import DOCS, ROOT, Figures
from benchmarks.pages import Pages, between, write_pages
from benchmarks.selection import verdicts as selection
from benchmarks.serving import verdicts as serving
from benchmarks.soak import __main__ as soak
from benchmarks.warehouse import __main__ as warehouse
from benchmarks.warehouse import reads
from benchmarks.weak_labels import verdicts as weak_labels

PAGES: Mapping[str, Pages] = {
    "apply": apply.pages,
    "drawn": drawn_functions.pages,
    "engine": engine.pages,
    "int8": int8.pages,
    "label_studio": label_studio.pages,
    "prefect-memory": prefect_memory.pages,
    "selection": selection.pages,
    "serving": serving.pages,
    "soak": soak.pages,
    "warehouse": warehouse.pages,
    "warehouse-reads": reads.pages,
    "weak_labels": weak_labels.pages,
}
"""What writes the files beside docs/benchmarks/NAME.json; each benchmark does so too when it has measured."""
READMES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "README.md": {
        "demo": lambda: demo.table(read("demo")),
        "selection": lambda: selection.sentence(read("selection")),
        "claim": lambda: engine.claims(read("engine"), read("int8"), read("serving")),
    },
    "engine/README.md": {"engine": lambda: engine.block(read("engine"))},
    "weak_labels/README.md": {"apply": lambda: apply.sentence(read("apply"))},
}
"""What stands between the marks of a README."""


def read(name: str) -> Figures:
    """The figures of a benchmark."""
    return json.loads((DOCS / f"{name}.json").read_text("utf-8"))


def filled(readme: str) -> str:
    """A README with its figures replaced; marks that it does not have are left out."""
    text = (ROOT / readme).read_text("utf-8")
    for mark, write in READMES[readme].items():
        if f"<!-- {mark} figures:" in text:
            text = between(text, mark, write())
    return text


def main() -> None:
    """Rewrite the documents."""
    for name, pages in PAGES.items():
        write_pages(read(name), DOCS / f"{name}.json", pages)
    for readme in READMES:
        Path(ROOT / readme).write_text(filled(readme), "utf-8")


if __name__ == "__main__":
    main()
