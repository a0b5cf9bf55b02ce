"""How fast labeling functions are applied: 20 keyword and regex functions, against Snorkel's own appliers.

    python -m benchmarks.apply [--data DIR] [--rows 1000000] [--parts quarter,all,pandas,dask] [--output FILE]

The texts are those of `unlabelled/sentences.tsv.gz` in the data folder (source, tab, sentence), repeated with a number
at the end where there are fewer than rows. Siftline is timed from lake to lake, each run on a fresh warehouse in a
process of its own, whose peak memory is taken. Snorkel gets the same texts in a frame in memory, and the same functions
with Python's `re`. It is timed on a fifth of --peer-rows and on all of it and compared by the time of a row between the
two, so that its start counts for nothing; its votes are compared with Siftline's. Times are medians of three runs.
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.data.files import data_folder, tab_lines
from benchmarks.harness import (
    DOCS,
    ROOT,
    Bar,
    Figures,
    add_parts,
    chosen_parts,
    command,
    earlier_figures,
    environment,
    measured,
    peer_python,
)
from benchmarks.pages import keep, render

TIMES = 3
"""How often each run is timed."""
PARTS = ("quarter", "all", "pandas", "dask")
CLASSES = ("sports", "science", "arts", "life")
# Ten of each kind; a class is (number of the function) % 4.
KEYWORDS = (
    ("match", "league", "season"), ("research", "scientist"), ("music", "song", "band"), ("dog", "cat"),
    ("player", "coach"), ("water", "river"), ("movie", "film", "actor"), ("food", "restaurant"),
    ("team", "goal"), ("book", "novel"),
)  # fmt: skip
PATTERNS = (
    r"\b(?:won|lost|beat)\b", r"\b[0-9]+ ?(?:km|kg|percent|%)", r"\bdirect(?:ed|or)\b", r"\bhow (?:many|much)\b",
    r"\b[0-9]+-[0-9]+\b", r"\b(?:19|20)[0-9]{2}\b", r"\bperform(?:s|ed|ance)\b", r"\b(?:man|woman|people) (?:is|are)\b",
    r"\b(?:play|run|jump)ing\b", r"\bwr(?:ite|ote|itten)\b",
)  # fmt: skip
PEERS = {"pandas": "Snorkel PandasLFApplier", "dask": "Snorkel DaskLFApplier, processes"}
RUNS = {
    "first": "Siftline, lake to lake, first run",
    "changed": "Siftline, one of 20 functions changed",
    "nothing_new": "Siftline, nothing new",
}


def _functions(changed: bool) -> list[Any]:
    """Siftline's functions; with `changed`, the first keyword function has one more word."""
    from weak_labels import keywords, regex

    words = [[*w, "stadium"] if changed and n == 0 else list(w) for n, w in enumerate(KEYWORDS)]
    made = [keywords(CLASSES[n % 4], w, name=f"keywords_{n}") for n, w in enumerate(words)]
    return made + [regex(CLASSES[n % 4], p, name=f"regex_{n}") for n, p in enumerate(PATTERNS)]


def _fill(folder: Path, texts: Sequence[str]) -> float:
    """Make a warehouse with the texts as items; the seconds that it took."""
    from warehouse import Append, Lake

    began = time.perf_counter()
    with Lake(folder) as lake:
        for start in range(0, len(texts), 100_000):
            part = texts[start : start + 100_000]
            same = {"modality": "text", "source": "benchmark", "metadata": "{}", "split": "train"}
            items = {"item_id": [f"i{number:08d}" for number in range(start, start + len(part))], "content": list(part)}
            items |= {"content_hash": [sha256(text.encode()).hexdigest() for text in part]}
            items |= {"position": pa.array(range(start + 1, start + len(part) + 1), pa.int64())}
            items |= {name: [value] * len(part) for name, value in same.items()}
            with lake.stage("ingest", version=1, inputs=(), params={"start": start}) as stage:
                stage.commit([Append("items", pa.table(items))])
    return round(time.perf_counter() - began, 2)


def vote_once(folder: str, changed: bool, dump: int) -> Figures:
    """One vote run in this process: seconds, peak memory; with `dump`, the votes on the first so many items."""
    from warehouse import Lake
    from weak_labels.applying.stage import VoteConfig, vote

    with Lake(Path(folder)) as lake:
        made, began = _functions(changed), time.perf_counter()
        result = vote(lake, made, VoteConfig(classes=CLASSES, encoder_id="none"))
        found: Figures = {"seconds": time.perf_counter() - began, "votes": result.detail["votes"]}
        found |= {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "items": result.rows_read}
        if dump:
            with lake.read() as reader:
                rows = reader.rows("SELECT item_id, lf_name, vote FROM lf_votes WHERE item_id < ?", [f"i{dump:08d}"])
            found["dump"] = [[int(item[1:]), name, vote] for item, name, vote in rows]
    return found


def _child(folder: Path, *, changed: bool = False, dump: int = 0) -> Figures:
    """`vote_once` in a process of its own, so that its peak memory is its own."""
    run = f"apply.vote_once({str(folder)!r}, {changed}, {dump})"
    code = f"import json; from benchmarks import apply; print(json.dumps({run}))"
    child = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    return json.loads(child.stdout)


def _ours(texts: list[str], distinct: int, **changed: bool) -> Figures:
    """Runs one after the other on a warehouse with the texts, `TIMES` times; of each the one of median time."""
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), list[list[Figures]]()
        filled = _fill(folder / "lake", texts)
        for _ in range(TIMES):
            shutil.copytree(folder / "lake", folder / "copy")
            found.append([_child(folder / "copy", changed=how) for how in changed.values()])
            shutil.rmtree(folder / "copy")
    middle = [sorted(same, key=lambda run: run["seconds"])[TIMES // 2] for same in zip(*found, strict=True)]
    return {"rows": len(texts), "fill_s": filled, "distinct_texts": distinct, **dict(zip(changed, middle, strict=True))}


def _peer(texts: list[str], kind: str, cores: int) -> Figures:
    """A peer on a fifth and on all of the texts, and whether its votes are Siftline's."""
    sizes = [len(texts) // 5, len(texts)]
    functions = [(f"keywords_{n}", n % 4, rf"\b(?:{'|'.join(w)})\b") for n, w in enumerate(KEYWORDS)]
    functions += [(f"regex_{n}", n % 4, p) for n, p in enumerate(PATTERNS)]
    spec = json.dumps({"sizes": sizes, "texts": texts, "functions": functions})
    call = [peer_python("apply"), "-W", "ignore", "-m", "benchmarks.peers.apply", kind, str(cores)]
    answers: list[Figures] = []
    for _ in range(TIMES):
        answer = subprocess.run(call, input=spec, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        answers.append(json.loads(answer.stdout.strip().splitlines()[-1]))
    theirs = {(i, name): vote for i, name, vote in answers[-1]["votes"]}
    with tempfile.TemporaryDirectory() as folder:
        _fill(Path(folder), texts)
        ours = {(i, name): vote for i, name, vote in _child(Path(folder), dump=len(texts))["dump"]}
    seconds = [statistics.median(of_size) for of_size in zip(*(one["seconds"] for one in answers), strict=True)]
    return {
        "rows": sizes,
        "seconds": [round(value, 3) for value in seconds],
        "us_per_row": (seconds[1] - seconds[0]) / (sizes[1] - sizes[0]) * 1e6,
        "votes": len(theirs),
        "votes_that_differ": len(theirs.items() ^ ours.items()),
        "versions": answers[-1]["versions"],
    }


def bars(parts: Figures) -> list[Bar]:
    """The bars, judged by the parts that were measured."""
    found = {name: part["figures"] for name, part in parts.items()}
    whole, quarter, none = found.get("all"), found.get("quarter"), ("not measured", None)
    judged: list[Bar] = []
    for kind, times in (("pandas", 50), ("dask", 20)):
        ratio = found[kind]["us_per_row"] / us_per_row(whole, "first") if whole and kind in found else None
        told = none if ratio is None else (f"{ratio:.0f} times", ratio >= times)
        judged.append(Bar(f"at least {times} times as fast as {PEERS[kind]}", *told))
    peak = max(whole[run]["peak_bytes"] for run in RUNS) / 1e9 if whole else None
    judged.append(Bar("peak memory under 2 GB", *(none if peak is None else (f"{peak:.2f} GB", peak < 2))))
    ratio = us_per_row(whole, "first") / us_per_row(quarter, "first") if whole and quarter else None
    asked = "linear: time of a row at all rows at most 1.15 times that at a quarter of them"
    judged.append(Bar(asked, *(none if ratio is None else (f"{ratio:.2f}", ratio <= 1.15))))
    share = whole["changed"]["seconds"] / whole["first"]["seconds"] if whole else None
    asked = "one changed function of 20: at most 0.1 of the first run"
    judged.append(Bar(asked, *(none if share is None else (f"{share:.3f}", share <= 0.1))))
    differ = [found[kind]["votes_that_differ"] for kind in PEERS if kind in found]
    return [
        *judged,
        Bar("votes that differ from the peers': 0", *((str(max(differ)), not max(differ)) if differ else none)),
    ]


def us_per_row(found: Figures, run: str) -> float:
    """Microseconds of a row in a run."""
    return found[run]["seconds"] / found["rows"] * 1e6


def pages(figures: Figures) -> dict[str, str]:
    """docs/benchmarks/apply.md."""
    judged = bars(figures["parts"])
    return {".md": render("apply.md.j2", figures, bars=judged, runs=RUNS, peers=PEERS, us_per_row=us_per_row)}


def sentence(figures: Figures) -> str:
    """What weak_labels/README.md says about speed."""
    found = {name: part["figures"] for name, part in figures["parts"].items()}
    whole, peers = found["all"], {name: found[kind]["us_per_row"] for kind, name in PEERS.items() if kind in found}
    first = us_per_row(whole, "first")
    times = " and ".join(f"{us / first:.0f} times the speed of {name}" for name, us in peers.items())
    return (
        f"20 keyword and regex functions over {whole['rows']:,} texts, lake to lake: "
        f"{whole['first']['seconds']:.1f} s, one of them changed {whole['changed']['seconds']:.1f} s, peak memory "
        f"{max(whole[run]['peak_bytes'] for run in RUNS) / 1e9:.2f} GB. By the time of a row {times}. "
        "All figures: [docs/benchmarks/apply.md](../docs/benchmarks/apply.md)."
    )


def main() -> None:
    """Measure, write JSON and page after each part."""
    parser = command(__doc__, DOCS / "apply.json", data=True)
    add_parts(parser, PARTS)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--cores", type=int, default=2, help="partitions, so processes, of Dask")
    given: argparse.Namespace = parser.parse_args()
    parts = chosen_parts(parser, given.parts, PARTS)
    try:
        real = [text for _, text in tab_lines(data_folder(given.data, "unlabelled") / "unlabelled/sentences.tsv.gz")]
        figures = earlier_figures(given.output, "apply") or {"benchmark": "apply", "parts": {}}
        if {"pandas", "dask"} & set(parts):
            peer_python("apply")  # made before anything is timed
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    most = max(given.rows, given.peer_rows)
    texts = [real[n % len(real)] + (f" #{n // len(real)}" if n >= len(real) else "") for n in range(most)]
    distinct = min(given.rows, len(real))
    measures = {
        "quarter": partial(_ours, texts[: given.rows // 4], distinct, first=False),
        "all": partial(_ours, texts[: given.rows], distinct, first=False, changed=True, nothing_new=True),
        "pandas": partial(_peer, texts[: given.peer_rows], "pandas", given.cores),
        "dask": partial(_peer, texts[: given.peer_rows], "dask", given.cores),
    }
    sizes = f"--rows {given.rows} --peer-rows {given.peer_rows} --cores {given.cores}"
    for part in parts:
        found, how = measured(measures[part])
        called = f"python -m benchmarks.apply --data DIR {sizes} --parts {part}"
        figures["parts"][part] = {"figures": found, "part_seconds": how["seconds"], "command": called, **environment()}
        keep(figures, given.output, pages)
        print(f"{part}: {how['seconds']} s", file=sys.stderr, flush=True)
    for bar in bars(figures["parts"]):
        print(f"{bar.verdict}: {bar.asked}; {bar.found}")


if __name__ == "__main__":
    main()
