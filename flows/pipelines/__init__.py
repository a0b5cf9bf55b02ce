"""The stages in their order, and the Prefect flows around them.

May import `flows.project`, `flows.report` and what stands below them.
"""

from typing import Any

_FLOWS = ("cycle", "collect", "refresh", "maintenance")


def __getattr__(name: str) -> Any:
    """The entry points that deployments name, such as `flows.pipelines.cycle`; they import Prefect when asked for."""
    if name not in _FLOWS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flows.pipelines import flows

    return getattr(flows, name)
