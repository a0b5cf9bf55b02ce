"""How fast labeling functions are applied: 20 keyword and regex functions, against Snorkel's own appliers.

    python -m benchmarks.apply --data FOLDER [--rows 1000000] [--parts quarter,all,pandas,dask] [--output FILE]

The texts are those of `unlabelled/sentences.tsv.gz` in the data folder (source, sentence); when there are fewer than
rows asked for they are repeated, each repetition with a number of its own at the end, so that no text occurs twice.
Siftline is timed from lake to lake, in a process of its own whose peak memory is taken. The peers get the same texts in
a frame in memory and the same functions written with Python's `re`, in `.venv-peers-apply`, which is made once; they
are timed on a fifth of --peer-rows and on all of it and compared by the time of a row between the two, so that what
they take to start counts for nothing, and their votes are compared with Siftline's on the same texts. Each time is the
median of three runs, Siftline's each on a fresh warehouse. --output is
written after every part with its page (.md); a part that is not asked for stays as it was measured.
"""

import argparse
import functools
import gzip
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.apply_page import bars, page
from benchmarks.environment import environment

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "docs" / "benchmarks" / "apply.json"
PEERS = ROOT / ".venv-peers-apply"
# Snorkel without its dependencies, which ask for packages that its appliers do not use.
PEER = "snorkel==0.10.0"
PEER_NEEDS = ("dask[dataframe,distributed]>=2024.8", "pandas>=2.2,<3", "numpy<2.3", "scikit-learn", "scipy",
              "networkx", "tqdm", "munkres", "torch")  # fmt: skip
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


def sentences(data: Path) -> list[str]:
    """All real texts of the data folder."""
    with gzip.open(data / "unlabelled" / "sentences.tsv.gz", "rt", encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\n").split("\t", 1)[-1] for line in file]


def texts(data: Path, rows: int) -> list[str]:
    """So many different texts."""
    found = sentences(data)
    return [found[n % len(found)] + (f" #{n // len(found)}" if n >= len(found) else "") for n in range(rows)]


def functions(changed: bool = False) -> list[Any]:
    """Siftline's functions; with `changed`, the first keyword function has one more word."""
    from weak_labels import keywords, regex

    words = [[*w, "stadium"] if changed and n == 0 else list(w) for n, w in enumerate(KEYWORDS)]
    made = [keywords(CLASSES[n % 4], w, name=f"keywords_{n}") for n, w in enumerate(words)]
    return made + [regex(CLASSES[n % 4], p, name=f"regex_{n}") for n, p in enumerate(PATTERNS)]


def fill(folder: Path, rows: Sequence[str]) -> float:
    """A warehouse with the texts as items; the seconds that it took."""
    from warehouse import Append, Lake

    begin = time.perf_counter()
    with Lake(folder) as lake:
        for start in range(0, len(rows), 100_000):
            part = rows[start : start + 100_000]
            n = len(part)
            table = pa.table(
                {
                    "item_id": [f"i{number:08d}" for number in range(start, start + n)],
                    "content": list(part),
                    "content_hash": [sha256(text.encode()).hexdigest() for text in part],
                    "modality": ["text"] * n,
                    "source": ["benchmark"] * n,
                    "position": pa.array(range(start + 1, start + n + 1), pa.int64()),
                    "metadata": ["{}"] * n,
                    "split": ["train"] * n,
                }
            )
            with lake.stage("ingest", version=1, inputs=(), params={"start": start}) as stage:
                stage.commit([Append("items", table)])
    return round(time.perf_counter() - begin, 2)


def vote_once(folder: Path, changed: bool, dump: int) -> dict[str, Any]:
    """One vote run in this process: seconds, peak memory; with `dump`, the votes on the first so many items."""
    from warehouse import Lake
    from weak_labels.applying.stage import VoteConfig, vote

    made = functions(changed)
    with Lake(folder) as lake:
        begin = time.perf_counter()
        result = vote(lake, made, VoteConfig(classes=CLASSES, encoder_id="none"))
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        found = {"seconds": seconds, "peak_bytes": peak, "votes": result.detail["votes"], "items": result.rows_read}
        if dump:
            with lake.read() as reader:
                rows = reader.rows("SELECT item_id, lf_name, vote FROM lf_votes WHERE item_id < ?", [f"i{dump:08d}"])
            found["dump"] = sorted([int(item[1:]), name, vote] for item, name, vote in rows)
    return found


def peer_python() -> Path:
    """The interpreter of the peers' environment, made where it is missing."""
    python = PEERS / "bin" / "python"
    if not (PEERS / "done").exists():
        venv.create(PEERS, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", PEER], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_NEEDS], check=True)
        (PEERS / "done").touch()
    return python


def ask_peer(kind: str, rows: Sequence[str], sizes: Sequence[int], cores: int) -> dict[str, Any]:
    """One of Snorkel's appliers on the same functions, in an environment of its own: seconds of each size, votes."""
    spec = {
        "sizes": list(sizes),
        "texts": list(rows),
        "functions": [
            *((f"keywords_{n}", n % 4, rf"\b(?:{'|'.join(w)})\b") for n, w in enumerate(KEYWORDS)),
            *((f"regex_{n}", n % 4, p) for n, p in enumerate(PATTERNS)),
        ],
    }
    command = [peer_python(), "-W", "ignore", Path(__file__).with_name("apply_peers.py"), kind, str(cores)]
    answer = subprocess.run(command, input=json.dumps(spec), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"The peer {kind} failed:\n{answer.stderr[-3000:]}")
    return json.loads(answer.stdout.strip().splitlines()[-1])


def child(folder: Path, *, changed: bool = False, dump: int = 0) -> dict[str, Any]:
    """`vote_once` in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.apply", "--vote", str(folder), "--dump", str(dump)]
    command += ["--changed"] if changed else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def median_runs(filled: Path, *changed: bool) -> list[dict[str, Any]]:
    """Runs one after the other on a warehouse with texts, `TIMES` times in turn: of each the one of median time."""
    found: list[list[dict[str, Any]]] = []
    for number in range(TIMES):
        copy = filled.with_name(f"copy-{number}")
        shutil.copytree(filled, copy)
        found.append([child(copy, changed=functions_changed) for functions_changed in changed])
        shutil.rmtree(copy)
    return [sorted(same, key=lambda run: run["seconds"])[TIMES // 2] for same in zip(*found, strict=True)]


def quarter(data: Path, rows: int) -> dict[str, Any]:
    """The first run on a quarter of the rows."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        filled = fill(lake, texts(data, rows)[: rows // 4])
        [first] = median_runs(lake, False)
        return {"rows": rows // 4, "fill_s": filled, "first": first}


def whole(data: Path, rows: int) -> dict[str, Any]:
    """The first run on all rows, then one changed function of twenty, then nothing new."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(folder) / "lake"
        filled = fill(lake, texts(data, rows))
        runs = zip(("first", "changed", "nothing_new"), median_runs(lake, False, True, True), strict=True)
        return {"rows": rows, "fill_s": filled, "distinct_texts": min(rows, len(sentences(data))), **dict(runs)}


def peer(data: Path, rows: int, *, kind: str, cores: int) -> dict[str, Any]:
    """A peer on a fifth and on all of so many rows, and whether its votes are Siftline's."""
    sample = texts(data, rows)
    sizes = [rows // 5, rows]
    answers = [ask_peer(kind, sample, sizes, cores) for _ in range(TIMES)]
    answer = answers[-1]
    theirs = {(i, name): vote for i, name, vote in answer["votes"]}
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), sample)
        ours = {(i, name): vote for i, name, vote in child(Path(folder), dump=rows)["dump"]}
    seconds = [statistics.median(of_size) for of_size in zip(*(some["seconds"] for some in answers), strict=True)]
    return {
        "rows": sizes,
        "seconds": [round(value, 3) for value in seconds],
        "us_per_row": (seconds[1] - seconds[0]) / (sizes[1] - sizes[0]) * 1e6,
        "votes": len(theirs),
        "votes_that_differ": len(theirs.items() ^ ours.items()),
        "versions": answer["versions"],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder with unlabelled/sentences.tsv.gz")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--cores", type=int, default=2, help="partitions, so processes, of Dask")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s, with commas between them")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--vote", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--changed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dump", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.vote:
        print(json.dumps(vote_once(given.vote, given.changed, given.dump)))
        return
    wanted = given.parts.split(",")
    if set(wanted) - set(PARTS):
        parser.error(f"--parts is {given.parts}; it takes some of {', '.join(PARTS)}")
    if given.data is None or not (given.data / "unlabelled" / "sentences.tsv.gz").is_file():
        parser.error("--data is needed: the folder with unlabelled/sentences.tsv.gz (lines of source, tab, sentence)")
    figures: dict[str, Any] = {"benchmark": "apply", "parts": {}}
    if given.output.is_file():
        figures["parts"] = json.loads(given.output.read_text("utf-8"))["parts"]
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "quarter": functools.partial(quarter, given.data, given.rows),
        "all": functools.partial(whole, given.data, given.rows),
        "pandas": functools.partial(peer, given.data, given.peer_rows, kind="pandas", cores=given.cores),
        "dask": functools.partial(peer, given.data, given.peer_rows, kind="dask", cores=given.cores),
    }
    if {"pandas", "dask"} & set(wanted):
        peer_python()  # made before anything is timed
    for part in [part for part in PARTS if part in wanted]:
        begin = time.monotonic()
        measured = measures[part]()
        command = f"python -m benchmarks.apply --data DIR --rows {given.rows} --peer-rows {given.peer_rows}"
        figures["parts"][part] = {
            "figures": measured,
            "part_seconds": round(time.monotonic() - begin, 1),
            "command": f"{command} --cores {given.cores} --parts {part}",
            **environment(),
        }
        given.output.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
        given.output.with_suffix(".md").write_text(page(figures), "utf-8")
        print(f"{part}: {figures['parts'][part]['part_seconds']} s", file=sys.stderr, flush=True)
    for bar in bars(figures["parts"]):
        print(f"{bar.verdict:12} {bar.what}: {bar.measured} (bar {bar.asked})")


if __name__ == "__main__":
    main()
