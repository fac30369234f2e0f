"""What an evaluation has finished: taken up whole, or said to be damaged in one warning."""

import dataclasses
import io
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import memjax
from eval import partial
from eval.partial import Found, Partial
from memjax import provenance
from memjax.evaluation import Likelihood

ROOT = Path(__file__).parent.parent
MOST, BOUNDS = 9, 3


def found(count: int) -> Found:
    values = np.random.default_rng(count).normal(size=(BOUNDS + 3, count)).astype(np.float32)
    return Likelihood(values[0], values[1], values[3:]), {"kl_latent": values[2]}


LIKE: Found = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, found(1)))


def opened(folder: Path, **of: Any) -> Partial:
    return Partial.in_file(epath.Path(folder / "likelihood"), LIKE, MOST, **of)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an evaluation of nine images has left after six."""
    monkeypatch.setattr(partial, "SAVED_EVERY", 0)
    one = opened(tmp_path, seed=0)
    one.add(found(4))
    one.add(found(2))
    (path,) = tmp_path.iterdir()
    return path


def contents(path: Path) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(path.read_bytes())) as file:
        return dict(file)


def rewrite(path: Path, values: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **values)


def test_what_was_saved_is_taken_up(saved: Path) -> None:
    again = opened(saved.parent, seed=0)
    expected = jax.tree.map(lambda *of: np.concatenate(of, axis=-1), found(4), found(2))
    assert again.done == 6 and again.seconds == contents(saved)["seconds"]
    jax.tree.map(np.testing.assert_array_equal, again.found, expected)
    again.add(found(3))
    assert again.done == MOST
    again.remove()
    assert not list(saved.parent.iterdir())


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "two axes": ({"log_likelihood": np.zeros((6, 1), np.float32)}, r"float32 \[6, 1\] "),
    "no axes": ({"log_likelihood": np.float32(0)}, r"float32 \[\] .*, expected float32 \[1\]"),
    "integers": ({"log_likelihood": np.zeros(6, int)}, r"int64 \[6\] .*, expected float32 \[6\]"),
    "doubles": ({"effective_sample_size": np.zeros(6)}, r"float64 \[6\] .*, expected float32"),
    "complex": ({"log_likelihood": np.zeros(6, np.complex64)}, r"log_likelihood is complex64"),
    "text": ({"said/kl_latent": np.full(6, "a")}, r"said/kl_latent is <U1 \[6\], expected"),
    "objects": ({"log_likelihood": np.full(6, None)}, "holds pickled objects, which are never"),
    "records": ({"log_likelihood": np.zeros(6, [("a", "f4")])}, "'log_likelihood' is damaged"),
    "a row too few": ({"iwae_bound": np.zeros((2, 6), np.float32)}, r"expected float32 \[3, 6\]"),
    "a row too many": ({"iwae_bound": np.zeros((4, 6), np.float32)}, r"iwae_bound is .*\[4, 6\]"),
    "one row": ({"iwae_bound": np.zeros(6, np.float32)}, r"expected float32 \[3, 6\]"),
    "other images": ({"said/kl_latent": np.zeros(5, np.float32)}, r"kl_latent is float32 \[5\]"),
    "NaN seconds": ({"seconds": np.nan}, r"seconds is float64 \[\] with NaN, expected a number"),
    "infinite seconds": ({"seconds": np.inf}, "seconds is .*, expected a number"),
    "negative seconds": ({"seconds": -1.0}, "seconds is .*, expected a number"),
    "several seconds": ({"seconds": np.ones(2)}, r"seconds is float64 \[2\]"),
    "seconds of text": ({"seconds": "9"}, "seconds is <U1"),
    "of another": ({"of": "{}"}, "it is of another evaluation"),
    "of a number": ({"of": 5}, "it is of another evaluation"),
    "another array": ({"more\n": np.zeros(6)}, r"it holds \['effective.*, expected \['effective"),
    "another name": ({"said/other": np.zeros(6, np.float32)}, "it holds .*'said/other'"),
}


def assert_refused(path: Path, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="memjax"):
        again = opened(path.parent, seed=0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "\n" not in record.getMessage()
    start, _, reason = record.getMessage().partition(": cannot be used (")
    assert start == str(path) and reason.endswith("), beginning anew")
    assert re.search(said, reason), reason
    assert again.found is None and again.seconds == 0 and again.done == 0


@pytest.mark.parametrize("name", DAMAGE)
def test_a_file_of_other_kinds_is_said_and_left_out(
    name: str, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed, said = DAMAGE[name]
    rewrite(saved, contents(saved) | changed)
    assert_refused(saved, said, caplog)


def test_an_of_with_an_axis_is_said_and_left_out(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = contents(saved)
    rewrite(saved, values | {"of": values["of"][None]})
    assert_refused(saved, "it is of another evaluation", caplog)


@pytest.mark.parametrize(("count", "refused"), [(0, True), (1, False), (9, False), (10, True)])
def test_images_are_at_most_those_there_are(
    count: int, refused: bool, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    likelihood, said = found(count)
    named = {f"said/{name}": values for name, values in said.items()}
    kept = {name: contents(saved)[name] for name in ("of", "seconds")}
    rewrite(saved, dataclasses.asdict(likelihood) | named | kept)
    if refused:
        assert_refused(saved, f"it holds {count} images, expected 1 to 9", caplog)
    else:
        assert opened(saved.parent, seed=0).done == count


@pytest.mark.parametrize(
    "missing", ["log_likelihood", "iwae_bound", "said/kl_latent", "of", "seconds"]
)
def test_a_file_that_lacks_something_is_said_and_left_out(
    missing: str, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = contents(saved)
    del values[missing]
    rewrite(saved, values)
    assert_refused(saved, missing, caplog)


def test_other_sources_are_another_evaluation(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(saved.parent, seed=0).done == 6
    assert opened(saved.parent, seed=1).done == 0
    monkeypatch.setattr(partial, "SOURCES", "edited")
    assert opened(saved.parent, seed=0).done == 0


def test_sources_are_those_of_memjax_and_eval() -> None:
    folders = Path(memjax.__file__).parent, ROOT / "eval"
    assert provenance.digest_of_sources(*folders) == partial.SOURCES


def test_an_edited_source_changes_the_sum(tmp_path: Path) -> None:
    """Of a copy: an edited letter, a new file, a file moved; and nothing that is no source."""
    folders = [tmp_path / name for name in ("memjax", "eval")]
    for folder in folders:
        shutil.copytree(ROOT / folder.name, folder, ignore=shutil.ignore_patterns("*.pyc"))
    seen = [provenance.digest_of_sources(*folders)]
    assert seen == [provenance.digest_of_sources(ROOT / "memjax", ROOT / "eval")]
    (folders[0] / "notes.txt").write_text("notes")
    assert provenance.digest_of_sources(*folders) == seen[0]
    bounds, text = folders[0] / "bounds.py", (folders[0] / "bounds.py").read_text()
    bounds.write_text(text.replace("a", "b", 1))
    seen.append(provenance.digest_of_sources(*folders))
    bounds.write_text(text)
    assert provenance.digest_of_sources(*folders) == seen[0]
    (folders[0] / "evaluation" / "new.py").touch()
    seen.append(provenance.digest_of_sources(*folders))
    (folders[0] / "evaluation" / "new.py").rename(folders[1] / "new.py")
    seen.append(provenance.digest_of_sources(*folders))
    assert len(set(seen)) == 4
