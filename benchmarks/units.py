"""Whether a device has units for bfloat16: without them it computes slower than float32."""

from pathlib import Path

import jax

FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of /proc/cpuinfo: x86, x86 with tiles, ARM
FIRST_GPU = 8.0  # compute capability


def has_bfloat16() -> bool:
    """Whether the first device of jax has them; False where that is not known."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return not FLAGS.isdisjoint(_processor_flags())
    return device.platform == "tpu" or float(getattr(device, "compute_capability", 0)) >= FIRST_GPU


def _processor_flags() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return []
    named = (line.partition(":") for line in lines)
    return next((of.split() for name, _, of in named if name.strip() in ("flags", "Features")), [])
