"""What all benchmarks share: options, turns and medians, conditions of a figure, figures kept, peers' environments."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.weights.shipped import shipped

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "benchmarks"
CACHE = ROOT / ".cache"
PACKAGES = ("torch", "duckdb", "pyarrow", "faiss-cpu", "snorkel", "scikit-learn", "numpy", "prefect")
EARLIER = "routed from an earlier file of the encoder"
_FOUR_LAYERS = "732c3605134c3045e17e2c1f445127c16a77d49b7837bd794f8869bbb2fb48d6"
_TWO_LAYERS = "12b33f63998c1fb6865b3a9529e895ab718ec7ffc643d713358b679f70566b3c"
_AT_COMMIT = {"52e635ff35c52f67c061a498e17c0efcf6080700": _TWO_LAYERS}
"""The encoder's file at a commit whose figures do not name it; at all other such commits it had four layers."""

Figures = dict[str, Any]
Seconds = dict[str, list[float]]


class Bar(NamedTuple):
    """What is asked, what was found, and whether that is enough; None where it was not measured."""

    asked: str
    found: str
    met: bool | None

    @property
    def verdict(self) -> str:
        """met, missed or not measured."""
        return "not measured" if self.met is None else "met" if self.met else "**missed**"


def command(doc: str | None, output: Path | None = None, *, data: bool = False) -> argparse.ArgumentParser:
    """The command line of a benchmark: its docstring as help, and --output."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=output, help="JSON file; the page is written beside it")
    if data:
        parser.add_argument(
            "--data", type=Path, metavar="DIR", help="data folder; else SIFTLINE_DATA or ../shared/data"
        )
    return parser


def add_parts(parser: argparse.ArgumentParser, parts: Sequence[str], default: Sequence[str] | None = None) -> None:
    """Add --parts, whose names have commas or blanks between them."""
    shown = f"some of {','.join(parts)}"
    parser.add_argument(
        "--parts", nargs="+", default=[",".join(default or parts)], help=f"{shown} (default %(default)s)"
    )


def chosen_parts(parser: argparse.ArgumentParser, given: Iterable[str], parts: Sequence[str]) -> list[str]:
    """The parts that --parts names, in the benchmark's order; ends the program where one is unknown."""
    names = ",".join(given).split(",")
    if set(names) - set(parts):
        parser.error(f"--parts is {','.join(names)}; it takes some of {', '.join(parts)}")
    return [name for name in parts if name in names]


def environment() -> Figures:
    """Commit, processor, cores, memory, Python and package versions."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def _processor() -> str:
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    kinds = ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8")
    flags = ", ".join(kind for kind in kinds if kind in facts.get("flags", ""))
    return f"{facts.get('model name', platform.processor() or 'unknown')} ({flags})"


def measured(measure: Callable[[], Figures]) -> tuple[Figures, Figures]:
    """The figures of a part, and their conditions: load of the machine before and after, seconds."""
    load, began = os.getloadavg()[0], time.monotonic()
    found = measure()
    seconds = round(time.monotonic() - began, 1)
    return found, {"load": [round(load, 1), round(os.getloadavg()[0], 1)], "seconds": seconds}


def routed_file() -> dict[str, str]:
    """The sha256 of the routed encoder that ships, to note with figures."""
    return {"routed": shipped("routed")[1]}


def earlier(on: Mapping[str, Any]) -> bool:
    """Whether figures with these conditions are of another routed encoder than the one that ships."""
    return on.get("routed", _AT_COMMIT.get(on["commit"], _FOUR_LAYERS)) != routed_file()["routed"]


def earlier_figures(output: Path | None, benchmark: str) -> Figures:
    """The figures that the output file holds already; none where there is no file yet.

    Raises:
        ValueError: the file is of something else, or its folder does not exist.
    """
    if output is None:
        return {}
    if not output.parent.is_dir():
        raise ValueError(f"--output is {output}, whose folder does not exist. Make it first.")
    if not output.exists():
        return {}
    try:
        figures = json.loads(output.read_text("utf-8"))
    except (OSError, ValueError):
        figures = None
    if not isinstance(figures, dict) or figures.get("benchmark", benchmark) != benchmark:
        raise ValueError(f"--output is {output}, which holds no figures of {benchmark}. Give another name.")
    return figures


def beside_other(found: Figures, before: Figures | None, key: str) -> Figures:
    """New figures of a part, and as "other" the last ones whose `key` differs: a kernel, a precision."""
    former = dict(before or {})
    other = former.pop("other", None)
    if former and former[key] != found[key]:
        other = former
    return {**found, **({"other": other} if other else {})}


def with_other(part: Figures) -> list[Figures]:
    """Figures of a part, and those of the other machine where there are such."""
    return [part, *([part["other"]] if "other" in part else [])]


def in_turns(actions: Mapping[str, Callable[[], object]], rounds: int, seconds: Seconds | None = None) -> Seconds:
    """Wall seconds of each action in each round; who is first changes with the round, so that load hits all alike.

    One more round comes first and is not counted, unless `seconds` has times to add to.
    """
    names, kept = list(actions), seconds is not None
    seconds = {name: [] for name in names} if seconds is None else seconds
    for number in range(rounds if kept else rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            began = time.perf_counter()
            actions[name]()
            if kept or number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Median over rounds of one side over the other in the same round."""
    return round(float(np.median(np.array(first) / np.array(second))), 3)


def mean_and_sd(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation, to four digits."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 4), "sd": round(spread, 4)}


def peer_python(name: str) -> Path:
    """The interpreter of the environment of a peer in `peers/packages.toml`, made on first use (minutes, network).

    Raises:
        ChildProcessError: it cannot be made.
    """
    folder = ROOT / f".venv-peers-{name}"
    if not (folder / ".done").exists():
        installs = tomllib.loads((ROOT / "benchmarks/peers/packages.toml").read_text("utf-8"))[name]
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for step in ([sys.executable, "-m", "venv", str(folder)], *([*pip, *packages] for packages in installs)):
            ended = subprocess.run(step, capture_output=True, text=True, check=False)
            if ended.returncode:
                raise ChildProcessError(f"The peers of {name} cannot be installed: {ended.stderr.strip()[-500:]}")
        (folder / ".done").touch()
    return folder / "bin" / "python"


def write_json(figures: Figures, output: Path) -> None:
    """Write the figures so that nobody ever reads half of them."""
    part = output.with_suffix(".part")
    part.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    part.replace(output)
