"""Energy is read from the counters where there are any, and an estimate says that it is one."""

from pathlib import Path

import pytest

from engine.energy import EstimateMeter, NvmlMeter, RaplMeter, best_meter


def zone(folder: Path, name: str, used_uj: int) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "max_energy_range_uj").write_text("1000000\n")
    (folder / name / "energy_uj").write_text(f"{used_uj}\n")
    return folder / name / "energy_uj"


def test_counters_of_all_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 200)
    part = zone(tmp_path, "intel-rapl:0:0", 0)
    meter = RaplMeter(tmp_path)
    first.write_text("500100")
    second.write_text("250200")
    part.write_text("400000")
    assert meter.joules() == pytest.approx(0.75)
    assert not meter.estimated


def test_a_counter_that_wraps_around_loses_nothing(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", 900_000)
    meter = RaplMeter(tmp_path)
    counter.write_text("100000")
    assert meter.joules() == pytest.approx(0.2)
    counter.write_text("300000")
    assert meter.joules() == pytest.approx(0.4)


def test_without_counters_it_is_an_estimate_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no intel-rapl zones"):
        RaplMeter(tmp_path)
    meter = EstimateMeter()
    before = meter.joules()
    sum(range(3_000_000))
    assert meter.joules() > before
    assert meter.estimated
    assert "processor seconds" in meter.source


def test_the_best_meter_is_one_that_can_be_read() -> None:
    for device in ("cpu", "cuda"):
        meter = best_meter(device)
        assert meter.joules() >= 0
        assert meter.estimated == isinstance(meter, EstimateMeter)


@pytest.mark.cuda
def test_the_counter_of_a_gpu_goes_up() -> None:
    meter = NvmlMeter()
    before = meter.joules()
    assert before > 0
    assert not meter.estimated
