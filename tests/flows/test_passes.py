"""A run makes one pass over the stages or more."""

import pytest

from flows.pipelines.stages import run_passes
from warehouse import SettingsError, StageResult


@pytest.mark.parametrize("passes", [0, -1])
def test_no_pass_is_no_run(passes: int) -> None:
    """The command refuses it by itself; from Prefect's pages it was a Completed run that did nothing."""

    def run_stage(stage: str) -> StageResult:
        raise AssertionError(stage)

    with pytest.raises(SettingsError, match="give 1 or more"):
        run_passes(run_stage, simulated=False, max_passes=passes)


def test_prefect_refuses_it_before_a_run_begins() -> None:
    from flows.pipelines.flows import cycle

    [number, _] = cycle.parameters.model_dump()["properties"]["max_passes"]["anyOf"]
    assert number == {"minimum": 1, "type": "integer"}
