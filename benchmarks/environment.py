"""What a figure was measured on: commit, hardware, versions."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "duckdb", "pyarrow", "faiss-cpu", "snorkel", "scikit-learn", "numpy", "prefect")


def environment() -> dict[str, Any]:
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
    root = Path(__file__).parents[1]
    ended = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return ended.stdout.strip()


def _processor() -> str:
    model, flags = platform.processor() or "unknown", ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
        if line.startswith("flags"):
            flags = ", ".join(f for f in ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8") if f in line)
            break
    return f"{model} ({flags})"
