"""Four virtual devices, compiled programs kept for the session, nothing written at home."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata

import pytest

_NAME = "MEMJAX_TESTS_SCRATCH"
# One for all workers: what one has compiled the others need not compile again.
_SCRATCH = os.environ.get(_NAME) or tempfile.mkdtemp(prefix="memjax-tests-")


def _set_up() -> None:
    """Set what jax reads when it is imported, and what processes of the tests inherit."""
    # Most of a test is the compilation of a small program, which no optimisation pays for.
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    # The older emitters compile in half the time. XLA ends a process at a flag it does not know,
    # and not every version need know this one.
    if metadata.version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Every run compiles its step anew, for the most part the same one.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{_SCRATCH}/compiled"
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    os.environ[_NAME] = _SCRATCH
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{_SCRATCH}/hypothesis"
    os.environ["MEMJAX_CACHE_DIR"] = f"{_SCRATCH}/data"
    from memjax import backend  # imports jax

    backend.configure()


_set_up()


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """Thousands of small programs would fill some gigabytes by the end of the session."""
    yield
    import jax

    jax.clear_caches()


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the workers come before
        shutil.rmtree(_SCRATCH, ignore_errors=True)
