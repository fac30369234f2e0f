"""`python -m benchmarks`: what it refuses, what it compares, what it records."""

import dataclasses
import functools
import importlib
import importlib.metadata
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import jax
import pytest

from benchmarks import __main__ as bench
from benchmarks import jobs, timing, units
from eval import records
from memjax import configs
from memjax.errors import InputError
from memjax.products import Precision


class Slow:
    """Steps of known durations, of an experiment."""

    def __init__(self, seconds: float):
        self._seconds, self.experiment = seconds, configs.get("mem_vae_mnist")

        self.protocol = {"num_samples": 7}

    def seconds(self, count: int) -> float:
        return count * self._seconds


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Jobs of two seconds whose rivals take three; what is compared is added to the list."""
    found: list[tuple[str, ...]] = []

    def rival(name: str, job: Any, ours: Any) -> Slow:
        found.append((job.experiment, name))
        return Slow(3.0)

    monkeypatch.setattr(jobs, "make_ours", lambda job, precision: Slow(2.0))
    monkeypatch.setattr(jobs, "make_rival", rival)
    for needed in ("torch_module", "pythae_module"):
        monkeypatch.setattr(bench, needed, lambda *module: pytest.fail(f"{module} is not needed"))
    return found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": ("mnist",)}, r"^--jobs: found 'mnist', expected some of mem_vae_mnist, \S"),
        ({"jobs": ()}, "^--jobs: found none, expected some of mem_vae_mnist"),
        ({"rivals": ("torch",)}, "^--rivals: found 'torch', expected some of torch_eager, "),
        ({"rivals": ()}, "^--rivals: found none, expected some of torch_eager"),
        ({"precisions": ("half",)}, "^--precisions: found 'half', expected some of float32, "),
        ({"precisions": ()}, "^--precisions: found none, expected some of float32"),
        ({"rounds": 4}, "^--rounds: found 4, expected at least 5, or --trial, which records noth"),
        ({"rounds": 0, "trial": True}, "^--rounds: found 0, expected at least 1$"),
        ({"rounds": 2**31}, "^--rounds: found 2147483648, expected at most 2147483647$"),
        (
            {"rounds": 2**31, "trial": True},
            "^--rounds: found 2147483648, expected at most 2147483647$",
        ),
        (
            {"rivals": ("ours_float32",), "precisions": ("float32",)},
            "^--rivals: found ours_float32, expected for mem_vae_mnist at float32 some of torch_ea",
        ),
        (
            {"rivals": ("pythae",), "jobs": ("iwae50_mnist", "avme_mnist")},
            "^--rivals: found pythae, expected for avme_mnist at float32.* some of torch_eager, ",
        ),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bench.main(**{"results": str(tmp_path), **options})
    assert not list(tmp_path.iterdir())


def test_several_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    with pytest.raises(InputError, match=r"^devices: found 2, expected one \(CUDA_VISIBLE_DEV"):
        bench.main(rivals=("limit",), results=str(tmp_path))


def test_missing_torch_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "benchmarks.torch_common", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"^torch: not installed, expected it .*: pip install to"):
        bench.main(results=str(tmp_path))


class Without:
    """A finder of modules, for which a library is not installed."""

    def __init__(self, library: str):
        self._library = library

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name == self._library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_missing_pythae_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.delitem(sys.modules, "benchmarks.torch_pythae", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pythae"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without("pythae"), *sys.meta_path])
    with pytest.raises(InputError, match=r"^pythae: not installed, expected it .*: pip install py"):
        bench.main(results=str(tmp_path))


OPTIONAL = {
    "torch": functools.partial(jobs.torch_module, "torch_common"),
    "pythae": jobs.pythae_module,
}


@pytest.mark.parametrize("library", OPTIONAL)
@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            "raise OSError('libnone.so: cannot open\\nshared object')",
            "OSError: libnone.so: cannot open shared obj",
        ),
        ("raise ImportError('undefined symbol')", "ImportError: undefined symbol"),
        ("import of_no_library", "ModuleNotFoundError: No module named 'of_no_library'"),
        ("raise ModuleNotFoundError('No part', name=__name__ + '._C')", "ModuleNotFoundError: No "),
        ("assert False", "AssertionError"),
        ("{}['HOME']", "KeyError: 'HOME'"),
        ("def", "File .* SyntaxError: invalid syntax"),
    ],
)
def test_a_broken_library_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, program: str, said: str
) -> None:
    if library == "pythae":
        pytest.importorskip("torch")
    _in_place_of(monkeypatch, tmp_path, library, program)
    message = rf"^{library}: found it broken \({said}.*\), expected it for .* pip install {library}"
    with pytest.raises(InputError, match=message) as found:
        OPTIONAL[library]()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("from torch import nowhere", "ImportError: cannot import name 'nowhere'"),
        ("import torch.nowhere", "ModuleNotFoundError: No module named 'torch.nowhere'"),
    ],
)
def test_a_library_without_what_is_asked_of_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, said: str
) -> None:
    _in_place_of(monkeypatch, tmp_path, "torch", "")
    _in_place_of(monkeypatch, tmp_path, "ours", program)
    with pytest.raises(InputError, match=rf"^torch: found it broken \({said}.*, expected"):
        timing.optional("ours", "torch")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import of_no_library", ModuleNotFoundError),
        ("import torch; torch.call(lambda: {}['ours'])", KeyError),
        ("import torch; torch.call(3)", TypeError),
        ("from memjax.errors import InputError; raise InputError('ours')", InputError),
    ],
)
def test_an_error_of_our_own_is_not_that_of_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, error: type[Exception]
) -> None:
    _in_place_of(monkeypatch, tmp_path, "torch", "call = lambda function: function()")
    _in_place_of(monkeypatch, tmp_path, "ours", program)
    with pytest.raises(error, match=r"ours|of_no_library|callable"):
        timing.optional("ours", "torch")


def _in_place_of(monkeypatch: pytest.MonkeyPatch, folder: Path, library: str, program: str) -> None:
    (folder / f"{library}.py").write_text(program)
    monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    # What is imported in its place is to go with the test, where there is no library to come back.
    monkeypatch.setitem(sys.modules, library, None)
    del sys.modules[library]


def test_a_processor_without_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "_processor_flags", lambda: ["fpu", "avx2"])
    with pytest.raises(InputError, match=r"^--precisions: found bfloat16, expected another: .* no"):
        bench.main(precisions=("bfloat16",), results=str(tmp_path))
    made = bench.plan(("avme_mnist",), jobs.RIVALS, bench._precisions(None))
    assert made == [("avme_mnist", "float32", ("torch_eager", "torch_compile", "limit"))]
    monkeypatch.setattr(units, "_processor_flags", lambda: ["fpu", "avx512_bf16"])
    assert bench._precisions(None) == ("float32", "bfloat16")


def test_ratios_are_recorded(tmp_path: Path, compared: list[tuple[str, ...]]) -> None:
    given = {"jobs": ("mem_vae_mnist",), "precisions": ("float32",), "results": str(tmp_path)}
    bench.main(rivals=("limit", "ours_float32"), **given)
    assert compared == [("mem_vae_mnist", "limit")]
    (one,) = records.load(tmp_path / "benchmarks.json")
    assert (one.metric, one.value, one.values) == ("ratio", 1.5, [1.5] * 9)
    said = {name: one.protocol[name] for name in ("job", "rival", "precision", "rounds")}
    assert said == {"job": "mem_vae_mnist", "rival": "limit", "precision": "float32", "rounds": 9}
    assert one.protocol["num_samples"] == 7  # as what is timed says
    seconds = [one.protocol[name] for name in ("ours_seconds", "rival_seconds")]
    assert seconds == [2.0, 3.0] and one.protocol["device"] == one.hardware
    assert one.commit and one.versions["jax"] == jax.__version__


def test_medians_are_compared() -> None:
    ours = Slow(1.0)
    one = bench.record("mem_vae_mnist", "limit", ours, [1.0, 2.0, 9.0], [4.0, 3.0, 5.0])
    assert (one.value, one.values) == (2.0, [4.0, 1.5, 0.556])
    seconds = [one.protocol[name] for name in ("ours_seconds", "rival_seconds")]
    assert seconds == [2.0, 4.0] and one.protocol["rounds"] == 3


@pytest.mark.parametrize(
    ("rival", "libraries"),
    [
        ("torch_eager", {"torch"}),
        ("torch_compile", {"torch"}),
        ("pythae", {"torch", "pythae"}),
        ("limit", set()),
        ("ours_float32", set()),
        ("limit_float32", set()),
    ],
)
def test_versions_of_a_rival_are_recorded(
    monkeypatch: pytest.MonkeyPatch, rival: str, libraries: set[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda library: f"of {library}")
    one = bench.record("iwae50_mnist", rival, Slow(1.0), [1.0], [2.0])
    found = {name: of for name, of in one.versions.items() if name in OPTIONAL}
    assert found == {library: f"of {library}" for library in libraries}


def test_a_trial_records_nothing(
    tmp_path: Path, compared: list[tuple[str, ...]], capsys: pytest.CaptureFixture
) -> None:
    given = {"jobs": ("avme_mnist",), "precisions": ("float32",), "results": str(tmp_path)}
    bench.main(rivals=("limit",), rounds=1, trial=True, **given)
    assert compared == [("avme_mnist", "limit")] and not list(tmp_path.iterdir())
    assert (
        "avme_mnist  float32    limit  2e+03     3e+03      1.5    1.5" in capsys.readouterr().out
    )


def test_a_later_measurement_takes_the_place_of_an_earlier_one(
    tmp_path: Path, compared: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"jobs": ("mem_vae_mnist",), "precisions": ("float32",), "results": str(tmp_path)}
    bench.main(rivals=("limit",), **given)
    monkeypatch.setattr(jobs, "make_ours", lambda job, precision: Slow(1.0))
    bench.main(rivals=("limit",), **given)
    (one,) = records.load(tmp_path / "benchmarks.json")
    assert one.value == 3.0


def test_rivals_at_a_lower_precision_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(jobs, "make_ours", lambda job, precision: made.append(precision) or Slow(1))
    jobs.make_rival("ours_float32", jobs.JOBS["avme_mnist"], Slow(1.0))
    assert made == ["float32"]


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize(
    ("name", "module", "compiled"),
    [
        ("torch_eager", "torch_mem_vae", False),
        ("torch_compile", "torch_mem_vae", True),
        ("pythae", "torch_pythae", False),
    ],
)
def test_rivals_in_torch_compute_as_they_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, compiled: bool, precision: Any
) -> None:
    common = SimpleNamespace(How=lambda *how: how)
    modules = {"benchmarks.torch_common": common, f"benchmarks.{module}": module}
    monkeypatch.setattr(jobs, "optional", lambda module, *libraries: modules[module])
    ours: Any = Slow(1.0)
    train = dataclasses.replace(ours.experiment.train, precision=precision)
    ours.experiment = dataclasses.replace(ours.experiment, train=train)
    ours.in_torch = lambda *given: given
    made = jobs.make_rival(name, jobs.JOBS["iwae50_mnist"], ours)
    assert made == (module, (compiled, precision))


def test_pythae_has_some_jobs_in_float32() -> None:
    of_job = functools.partial(jobs.rivals_of, jobs.JOBS["iwae50_mnist"])
    assert of_job("float32") == ("torch_eager", "torch_compile", "pythae", "limit")
    assert set(jobs.RIVALS) - set(of_job("bfloat16")) == {"pythae"}
    assert "pythae" not in jobs.rivals_of(jobs.JOBS["mem_vae_mnist"], "float32")


@pytest.mark.parametrize("name", sorted(jobs.JOBS))
def test_images_have_the_sizes_of_the_data_set(name: str) -> None:
    job = jobs.JOBS[name]
    experiment, dataset = configs.get(job.experiment), job.dataset()
    assert dataset.image_shape == ((26, 26, 1) if "26" in experiment.dataset else (28, 28, 1))
    # What is binarised in each step is grey.
    assert (dataset.maximum == 1) == (experiment.data.binarisation == "none")


def test_what_stood_in_for_a_library_is_gone(tmp_path: Path) -> None:
    before = sys.modules.get("torch")
    with pytest.MonkeyPatch.context() as patched:
        _in_place_of(patched, tmp_path, "torch", "")
        assert importlib.import_module("torch").__file__ == str(tmp_path / "torch.py")
    assert sys.modules.get("torch") is before
