"""Energy that was used, from the counters of the machine where they can be read; an estimate that says so elsewhere.

Counters are of a whole processor or GPU, other programs on it included.
"""

import ctypes
import time
from pathlib import Path
from typing import Protocol

CORE_WATTS = 4.0
"""Watts of a busy core, for the estimate: server processors are sold with 3 to 5 W of thermal design power per core."""
_RAPL = Path("/sys/class/powercap")


class EnergyMeter(Protocol):
    """A counter of energy."""

    @property
    def source(self) -> str:
        """What is read, in words."""
        ...

    @property
    def estimated(self) -> bool:
        """The figure is computed, not measured."""
        ...

    def joules(self) -> float:
        """Energy since some point in time; only differences mean something."""
        ...


class RaplMeter:
    """Processor packages, from the kernel's powercap counters (Intel and AMD). Read it now and then: they wrap around.

    Source: https://www.kernel.org/doc/html/latest/power/powercap/powercap.html

    Raises:
        OSError: there are none, or they may not be read (root only on most systems).
    """

    source = "RAPL counters of all processor packages"
    estimated = False

    def __init__(self, folder: Path = _RAPL) -> None:
        zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        # Laptops have one more, "psys": the whole machine, processor included.
        self._zones = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
        if not self._zones:
            raise OSError(f"{folder} has no intel-rapl zones")
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
        self._last = self._read()
        self._total_uj = 0

    def joules(self) -> float:
        """See `EnergyMeter`."""
        now = self._read()
        for before, after, most in zip(self._last, now, self._ranges, strict=True):
            self._total_uj += after - before if after >= before else after + most - before
        self._last = now
        return self._total_uj / 1e6

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]


class NvmlMeter:
    """One GPU, from the driver's library.

    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html, nvmlDeviceGetTotalEnergyConsumption

    Args:
        uuid: of the GPU, as the driver names it; its number differs from torch's where CUDA_VISIBLE_DEVICES is set.

    Raises:
        OSError: there is no driver, no such GPU, or it has no counter.
    """

    estimated = False

    def __init__(self, uuid: str) -> None:
        self.source = f"NVML counter of {uuid}"
        self._library = ctypes.CDLL("libnvidia-ml.so.1")
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(uuid.encode()), ctypes.byref(self._device))
        self.joules()

    def joules(self) -> float:
        """See `EnergyMeter`."""
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        return millijoules.value / 1e3

    def _call(self, name: str, *arguments: object) -> None:
        code = int(getattr(self._library, name)(*arguments))
        if code:
            raise OSError(f"{name} gave the error {code}")


class EstimateMeter:
    """Processor time of this process times the watts of a busy core."""

    source = f"processor seconds of this process times {CORE_WATTS:g} W"
    estimated = True

    def joules(self) -> float:
        """See `EnergyMeter`."""
        return time.process_time() * CORE_WATTS


def best_meter(device: str = "cpu") -> EnergyMeter:
    """The best meter of the device that computes, "cpu" or "cuda", that can be read on this machine."""
    try:
        return NvmlMeter(_own_gpu()) if device == "cuda" else RaplMeter()
    except OSError:
        return EstimateMeter()


def _own_gpu() -> str:
    """UUID of the GPU on which this process computes, its first. Raises OSError where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise OSError("torch has no GPU")
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"
