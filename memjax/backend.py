"""Settings of XLA that have to be made before the first computation."""

import os

import jax
import jax.numpy as jnp

from memjax.errors import InputError

# XLA 0.10 hands small element-wise operations on a CPU to a thread pool that costs more than they
# do: without these fusions a step of MEM-VAE takes about half the time. Matrix products alone are
# better there: one by a transposed matrix of 100 rows takes 0.4 times what it does without. Later
# versions are indifferent.
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"


def configure() -> None:
    """Add the setting to `XLA_FLAGS`, unless the user has made one.

    It has no effect on other backends than the CPU, nor after the first computation.

    Raises:
        InputError: 64-bit numbers are on, with which the same seed draws other noise.
    """
    if jnp.result_type(float) == jnp.float64:
        raise InputError("JAX_ENABLE_X64: found on, expected off: memjax computes in float32")
    flags = os.environ.get("XLA_FLAGS", "")
    # XLA ends the process at a flag it does not know, so only versions that need it are given it.
    if _FLAG not in flags and jax.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}={_FUSIONS}".strip()


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
