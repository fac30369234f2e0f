"""Settings of XLA that have to be made before the first computation, and what it may keep."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp

from memjax.errors import InputError

# XLA 0.10 hands small element-wise operations on a CPU to a thread pool that costs more than they
# do: without these fusions a step of MEM-VAE takes about half the time. Matrix products alone are
# better there: one by a transposed matrix of 100 rows takes 0.4 times what it does without. Later
# versions are indifferent.
_FUSIONS = "--xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
# By itself XLA uses half of the vector units of processors that have AVX-512; others pay no heed.
_WIDTH = "--xla_cpu_prefer_vector_width", "512"
_MAPPINGS, _MOST_MAPPINGS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


def configure() -> None:
    """Add the settings to `XLA_FLAGS`, but for those that the user has made.

    They have no effect on other backends than the CPU, nor after the first computation.

    Raises:
        InputError: 64-bit numbers are on, with which the same seed draws other noise.
    """
    if jnp.result_type(float) == jnp.float64:
        raise InputError("JAX_ENABLE_X64: found on, expected off: memjax computes in float32")
    given = os.environ.get("XLA_FLAGS", "")
    # XLA ends the process at a flag it does not know, so only versions that need it are given it.
    wanted = (_FUSIONS, _WIDTH) if jax.__version_info__ < (0, 11) else (_WIDTH,)
    added = [f"{flag}={value}" for flag, value in wanted if flag not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *added]).strip()


def forget_programs() -> None:
    """Let compiled programs go where the process has half of the mappings that Linux gives it.

    A run compiles a thousand mappings and more, jax keeps what has been under a pmap, and where
    there are none left (by default after 65,530) LLVM ends the process: a sweep of some dozens of
    runs in one process would come to that. What is still in use is compiled anew at its next call.
    """
    try:
        with _MAPPINGS.open("rb") as lines:
            found = sum(1 for _ in lines)
        most = int(_MOST_MAPPINGS.read_text())
    except (OSError, ValueError):  # not Linux, or one that keeps them to itself
        return
    if found > most // 2:
        jax.clear_caches()


def check_devices() -> None:
    """Raises InputError where the devices that the user asks for are not there.

    It starts jax, so `configure` comes first.
    """
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the latter for NVIDIA GPUs without their part
        asked = os.environ.get("JAX_PLATFORMS")
        said = next(iter(str(error).splitlines()), "no such device")
        raise InputError(
            f"JAX_PLATFORMS: found {asked}, which does not start ({said}), expected what is here, "
            "or nothing for the best that is"
        ) from error
