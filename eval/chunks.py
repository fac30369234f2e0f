"""Chunks of samples that fit into memory."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

SHARE = 0.8  # of what is free; the rest is for what else the process does

logger = logging.getLogger("memjax")


def compile_fitting(lower: Callable[[int], jax.stages.Lowered], chunk_size: int) -> Any:
    """Compile for the largest chunk that fits: the one asked for, or a half, a quarter, ... of it.

    A smaller chunk takes more time and gives the same answer. If not even one sample fits, it is
    tried all the same.

    Args:
        lower: chunk size -> the computation, to be compiled.
        chunk_size: asked for.

    Returns:
        A function of the arguments that `lower` knew the shapes of.
    """
    free, chunk = free_bytes(), chunk_size
    compiled = lower(chunk).compile()
    while free is not None and chunk > 1 and held_bytes(compiled) > SHARE * free:
        chunk = (chunk + 1) // 2
        compiled = lower(chunk).compile()
    if chunk < chunk_size:
        logger.warning(
            "--chunk-size: %d samples together do not fit into the %.1f GiB that are free, going "
            "on with %d",
            chunk_size,
            (free or 0) / 2**30,
            chunk,
        )
    return compiled


def held_bytes(compiled: Any) -> int:
    """What a compiled computation sets aside on a device between its inputs and its outputs."""
    analysis = compiled.memory_analysis()
    return 0 if analysis is None else analysis.temp_size_in_bytes


def free_bytes() -> int | None:
    """Free memory of a device, None where that is not known."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        said = device.memory_stats() or {}
        if "bytes_limit" not in said:
            return None
        return said["bytes_limit"] - said.get("bytes_in_use", 0)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    if "MemAvailable" not in found:
        return None
    # Virtual devices share the machine's memory.
    return int(found["MemAvailable"][0]) * 1024 // jax.local_device_count()
