"""The way into the `siftline` command, which begins only where its packages are found and not others of their names.

What `PYTHONPATH` names comes before what is installed. With a `features` of somebody's own in there a command would
end in the middle, in Python's words.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("active", "engine", "features", "flows", "warehouse", "weak_labels")
_NAMES_OF = ("warehouse", "weak_labels")
"""Names are imported from these, from the others modules, which are found also where a plain folder comes first."""


def main() -> None:
    """Run the command, or say which of its packages is hidden by another one."""
    if told := hidden(Path(__file__).parent):
        print(f"siftline: {told}", file=sys.stderr)
        sys.exit(2)
    try:
        from flows.cli.main import main

        main()
    except KeyboardInterrupt:  # while modules were imported, before there was anything to interrupt
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def hidden(home: Path) -> str | None:
    """What is found in place of a package in `home`, in words with the way out; None where nothing is."""
    for name in PACKAGES:
        spec = find_spec(name)
        if spec is None or (spec.origin is None and name not in _NAMES_OF):
            continue
        found = [str(place) for place in spec.submodule_search_locations or [spec.origin]]
        if (home / name).resolve() not in [Path(place).resolve() for place in found]:
            return (
                f"{found[0]} is found in place of Siftline's own package '{name}'. Where PYTHONPATH names its folder, "
                "`env -u PYTHONPATH siftline ...` goes without; else call `siftline` in another folder, or install it "
                "into an environment of its own."
            )
    return None


if __name__ == "__main__":
    main()
