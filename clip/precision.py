"""Which precision a device multiplies fastest, from the capabilities that it reports, never from timing."""

from __future__ import annotations

import torch

# flags of CPUs with units for bfloat16 products: AMX, AVX512-BF16
CPU_UNITS = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")


def tangent_precision(named: str, device: torch.device) -> str:
    """The value of `--tangent_precision` on this device, with "auto" resolved."""
    if named != "auto":
        return named
    return "bfloat16" if multiplies_bfloat16_faster(device) else "float32"


def multiplies_bfloat16_faster(device: torch.device) -> bool:
    """Whether `device` has units for bfloat16 products; without them, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(getattr(torch.cpu, unit, lambda: False)() for unit in CPU_UNITS)
