"""How fast labeling functions are applied: 20 keyword and regex functions, against Snorkel's own appliers.

    python -m benchmarks.apply --data FOLDER [--rows 1000000] [--parts ours peers] [--json docs/benchmarks/apply.json]

The texts are those of `unlabelled/sentences.tsv.gz` in the data folder (source, sentence); when there are fewer than
rows asked for they are repeated, each repetition with a number of its own at the end, so that no text occurs twice.
Siftline is timed from lake to lake, in a process of its own whose peak memory is taken. The peers get the same texts in
a frame in memory and the same functions written with Python's `re`; they are timed on a subsample and scaled by the
rows, which favours them little (they are linear), and their votes are compared with Siftline's on it.
`python -m benchmarks.apply --page` writes docs/benchmarks/apply.md from the JSON.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.environment import environment

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks" / "apply.md"
PEERS = ROOT / ".venv-peers-apply"
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
        return [line.rstrip("\n").split("\t", 1)[1] for line in file]


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


def fill(folder: Path, rows: Sequence[str]) -> None:
    """A warehouse with the texts as items."""
    from warehouse import Append, Lake

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


def vote_once(folder: Path, changed: bool, dump: int) -> dict[str, Any]:
    """One vote run in this process: seconds, peak memory; with `dump`, the votes on the first so many items."""
    from warehouse import Lake
    from weak_labels.apply import VoteConfig, vote

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


PEER_CODE = """
import json, re, sys, time
import pandas as pd
from snorkel.labeling import LabelingFunction, PandasLFApplier
spec = json.load(sys.stdin)
def make(name, vote, pattern):
    compiled = re.compile(pattern, re.ASCII if name.startswith("regex") else re.IGNORECASE | re.DOTALL)
    return LabelingFunction(name, lambda x: vote if compiled.search(x.text) else -1)
lfs = [make(*f) for f in spec["functions"]]
frame = pd.DataFrame({"text": spec["texts"]})
out = {}
if spec["peer"] == "pandas":
    begin = time.perf_counter()
    L = PandasLFApplier(lfs).apply(frame, progress_bar=False)
else:
    import dask.dataframe as dd
    import dask
    from snorkel.labeling.apply.dask import DaskLFApplier
    dask.config.set({"dataframe.convert-string": False})
    cores = spec["cores"]
    begin = time.perf_counter()
    L = DaskLFApplier(lfs).apply(dd.from_pandas(frame, npartitions=cores), scheduler="processes")
out["seconds"] = time.perf_counter() - begin
out["votes"] = [[int(i), lfs[j].name, int(L[i, j])] for i, j in zip(*(L >= 0).nonzero())]
import importlib.metadata as m
out["versions"] = {n: m.version(n) for n in ("snorkel", "pandas", "dask")}
print(json.dumps(out))
"""


def peer(kind: str, rows: Sequence[str], cores: int) -> dict[str, Any]:
    """One of Snorkel's appliers on the same functions, in an environment of its own."""
    python = PEERS / "bin" / "python"
    if not (PEERS / ".done").exists():
        venv.create(PEERS, with_pip=True)
        pinned = ["snorkel==0.10.0", "dask[dataframe,distributed]>=2024.8", "pandas>=2.2,<3"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned], check=True)
        (PEERS / ".done").touch()
    spec = {
        "peer": kind,
        "cores": cores,
        "texts": list(rows),
        "functions": [
            *((f"keywords_{n}", n % 4, rf"\b(?:{'|'.join(w)})\b") for n, w in enumerate(KEYWORDS)),
            *((f"regex_{n}", n % 4, p) for n, p in enumerate(PATTERNS)),
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "peer.py"
        # Dask's processes import the script again.
        script.write_text("def run():\n" + "".join(f"    {line}\n" for line in PEER_CODE.strip().splitlines())
                          + "if __name__ == '__main__':\n    run()\n")  # fmt: skip
        answer = subprocess.run([python, script], input=json.dumps(spec), capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SystemExit(f"The peer {kind} failed:\n{answer.stderr[-3000:]}")
    return json.loads(answer.stdout.strip().splitlines()[-1])


def child(folder: Path, *, changed: bool = False, dump: int = 0) -> dict[str, Any]:
    """`vote_once` in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, "-m", "benchmarks.apply", "--vote", str(folder), "--dump", str(dump)]
    command += ["--changed"] if changed else []
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def measure_ours(data: Path, rows: int, dump: int) -> dict[str, Any]:
    """First run at a quarter and at all rows, then one changed function of twenty."""
    found: dict[str, Any] = {"rows": rows}
    everything = texts(data, rows)
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "quarter", everything[: rows // 4])
        found["quarter"] = child(Path(folder) / "quarter")
        fill(Path(folder) / "all", everything)
        found["all"] = child(Path(folder) / "all", dump=dump)
        found["changed"] = child(Path(folder) / "all", changed=True)
        found["nothing_new"] = child(Path(folder) / "all", changed=True)
    return found


def measure_peers(data: Path, rows: int, cores: int, dump: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Both appliers on the first rows, and whether their votes are Siftline's."""
    sample = texts(data, rows)
    found: dict[str, Any] = {"rows": rows}
    for kind in ("pandas", "dask"):
        answer = peer(kind, sample, cores)
        theirs = {(i, name): vote for i, name, vote in answer.pop("votes")}
        ours = {(i, name): vote for i, name, vote in dump if i < rows}
        found[kind] = {
            "seconds": answer["seconds"],
            "us_per_row": answer["seconds"] / rows * 1e6,
            "votes": len(theirs),
            "votes_that_differ": len(theirs.items() ^ ours.items()),
            "versions": answer["versions"],
        }
    return found


def bars(result: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What is asked, what was measured, and whether it is met."""
    ours, peers = result["ours"], result["peers"]
    per_row = ours["all"]["seconds"] / ours["rows"] * 1e6
    pandas, dask = (peers[kind]["us_per_row"] / per_row for kind in ("pandas", "dask"))
    peak = max(ours[part]["peak_bytes"] for part in ("quarter", "all", "changed")) / 1e9
    linear = per_row / (ours["quarter"]["seconds"] / (ours["rows"] // 4) * 1e6)
    share = ours["changed"]["seconds"] / ours["all"]["seconds"]
    differ = max(peers[kind]["votes_that_differ"] for kind in ("pandas", "dask"))
    return [
        ("at least 50 times as fast as PandasLFApplier", f"{pandas:.0f} times", "50", pandas >= 50),
        ("at least 20 times as fast as DaskLFApplier", f"{dask:.0f} times", "20", dask >= 20),
        ("peak memory under 2 GB", f"{peak:.2f} GB", "2", peak < 2),
        ("linear: time per row at all rows over a quarter of them", f"{linear:.2f}", "1.15", linear <= 1.15),
        ("one changed function of 20, share of the first run", f"{share:.3f}", "0.1", share <= 0.1),
        ("votes that differ from the peers'", str(differ), "0", differ == 0),
    ]


def write_page(source: Path, page: Path) -> None:
    """docs/benchmarks/apply.md from the JSON."""
    r = json.loads(source.read_text("utf-8"))
    ours, peers, env = r["ours"], r["peers"], r["environment"]
    lines = [
        "# Applying labeling functions",
        "",
        f"Generated by `python -m benchmarks.apply --page` from [{source.name}]({source.name}); measured with "
        f"`{r['command']}`.",
        "",
        "| bar | measured | met |",
        "|---|---|---|",
        *(f"| {what} | {value} | {'yes' if met else '**no**'} |" for what, value, _, met in bars(r)),
        "",
        "| run | rows | seconds | µs/row | peak GB |",
        "|---|---:|---:|---:|---:|",
    ]
    names = {
        "all": "Siftline, lake to lake, first run",
        "quarter": "Siftline, a quarter of the rows",
        "changed": "Siftline, one of 20 functions changed",
        "nothing_new": "Siftline, nothing new",
    }
    for part, name in names.items():
        rows = ours["rows"] // 4 if part == "quarter" else ours["rows"]
        s = ours[part]["seconds"]
        lines.append(f"| {name} | {rows:,} | {s:.2f} | {s / rows * 1e6:.2f} | {ours[part]['peak_bytes'] / 1e9:.2f} |")
    for kind, name in (("pandas", "Snorkel PandasLFApplier"), ("dask", "Snorkel DaskLFApplier, processes")):
        p = peers[kind]
        lines.append(f"| {name} | {peers['rows']:,} | {p['seconds']:.2f} | {p['us_per_row']:.2f} | |")
    lines += [
        "",
        f"The {ours['rows']:,} texts are {r['distinct_texts']:,} real sentences, repeated with a number at the end. "
        "Siftline reads items from the warehouse and commits votes to it; the peers get a frame in memory and return a "
        f"matrix. The peers were timed on the first {peers['rows']:,} texts and are compared by time per row. The "
        "functions are ten keyword lists and ten regular expressions; the peers use Python's `re`.",
        "",
        f"{env['processor']}, {env['cores']} cores, Python {env['python']}, "
        f"commit {env['commit'][:12]}{' with uncommitted changes' if env['uncommitted_changes'] else ''}; "
        + ", ".join(f"{n} {v}" for n, v in {**env["versions"], **peers["pandas"]["versions"]}.items())
        + ".",
    ]
    page.write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=20_000)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=("ours", "peers"), default=["ours", "peers"])
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "benchmarks" / "apply.json")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--vote", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--changed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--dump", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.vote:
        print(json.dumps(vote_once(given.vote, given.changed, given.dump)))
        return
    if not given.page:
        if given.data is None:
            parser.error("--data is needed: the folder with unlabelled/sentences.tsv.gz")
        cache = given.json.with_suffix(".part.json")
        result: dict[str, Any] = json.loads(cache.read_text("utf-8")) if cache.exists() else {}
        if "ours" in given.parts:
            result["ours"] = measure_ours(given.data, given.rows, given.peer_rows)
        if "peers" in given.parts:
            if "ours" not in result:
                parser.error("the part ours has to be measured before the peers")
            result["peers"] = measure_peers(given.data, given.peer_rows, given.cores, result["ours"]["all"]["dump"])
        cache.write_text(json.dumps(result), "utf-8")
        if "peers" not in result:
            print(json.dumps({k: v for k, v in result["ours"].items() if k != "all"}, indent=1))
            return
        result["ours"]["all"].pop("dump", None)
        result["command"] = (
            f"python -m benchmarks.apply --data DIR --rows {given.rows} --peer-rows {given.peer_rows} "
            f"--cores {given.cores}"
        )
        result["distinct_texts"] = min(given.rows, len(sentences(given.data)))
        result["environment"] = environment()
        given.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        cache.unlink()
    result = json.loads(given.json.read_text("utf-8"))
    write_page(given.json, PAGE if given.page else given.json.with_suffix(".md"))
    for what, value, bar, met in bars(result):
        print(f"{'met' if met else 'NOT MET':8} {what}: {value} (bar {bar})")


if __name__ == "__main__":
    main()
