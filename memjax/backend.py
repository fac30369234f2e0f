"""Settings of XLA that have to be made before the first computation."""

import os

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
