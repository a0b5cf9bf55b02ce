"""Energy is read from the counters where there are any, and an estimate says that it is one."""

import ctypes
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch

from engine.runtime.energy import EstimateMeter, RaplMeter, best_meter


def zone(folder: Path, name: str, used_uj: int, counts: str = "package-0") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "name").write_text(f"{counts}\n")
    (folder / name / "max_energy_range_uj").write_text("1000000\n")
    (folder / name / "energy_uj").write_text(f"{used_uj}\n")
    return folder / name / "energy_uj"


def test_counters_of_all_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 200)
    part, machine = zone(tmp_path, "intel-rapl:0:0", 0, "core"), zone(tmp_path, "intel-rapl:2", 0, "psys")
    meter = RaplMeter(tmp_path)
    first.write_text("500100")
    second.write_text("250200")
    part.write_text("400000")
    machine.write_text("900000")
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


class TwoGpus:
    """The driver's library on a machine with two GPUs; it finds them by UUID only."""

    used_mj = MappingProxyType({b"GPU-first": 1000, b"GPU-second": 7000})

    def __init__(self, _: str) -> None:
        pass

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: ctypes.c_char_p, handle: Any) -> int:
        handle._obj.value = list(self.used_mj).index(uuid.value or b"") + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, used_mj: Any) -> int:
        used_mj._obj.value = list(self.used_mj.values())[(handle.value or 0) - 1]
        return 0


def test_the_energy_is_that_of_the_gpu_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    # As CUDA_VISIBLE_DEVICES=1 has it: torch's first GPU is the driver's second.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="second"))
    monkeypatch.setattr(ctypes, "CDLL", TwoGpus)
    meter = best_meter("cuda")
    assert (meter.source, meter.joules()) == ("NVML counter of GPU-second", 7.0)


@pytest.mark.cuda
def test_the_counter_of_a_gpu_goes_up() -> None:
    meter = best_meter("cuda")
    before = meter.joules()
    assert before > 0
    assert not meter.estimated
