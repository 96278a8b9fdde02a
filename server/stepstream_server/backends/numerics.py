"""The instruction set of this machine's CPU, which the last bits of sums depend on."""

from __future__ import annotations

import platform
from pathlib import Path

# Extensions for which numerical libraries have kernels of their own, and so another order of summation.
_EXTENSIONS = {
    *("avx", "avx2", "fma", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"),
}
_CPU_INFO = Path("/proc/cpuinfo")


def instruction_set() -> str:
    """For example `x86_64 avx avx2 fma`; without the extensions where the system does not tell them as Linux does."""
    flags: set[str] = set()
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):  # on x86, on Arm
                flags = _EXTENSIONS.intersection(value.split())
                break
    return " ".join([platform.machine(), *sorted(flags)])
