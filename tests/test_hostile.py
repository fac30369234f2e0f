"""Broken and hostile inputs are refused in one line, and nothing of them is ever executed."""

import ast
import dataclasses
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from etils import epath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval import records
from memjax import config, configs, data, workdirs
from memjax.data.files import DAMAGE, gunzip, read_npy
from memjax.data.mnist import read_amat, read_idx
from memjax.data.ocr_letters import read_letters
from memjax.data.omniglot import read_zip
from memjax.errors import InputError
from reliability import broken, hostile
from reliability.corpus import Case, corpus

ROOT = Path(__file__).parent.parent
# The same examples every time, and no time limit: machines are slow now and then.
settings.register_profile(
    "memjax",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("memjax")


def test_the_corpus_is_large_and_the_same_every_time(tmp_path: Path) -> None:
    one, other = corpus(), corpus()
    names = [(case.kind, case.name, case.said) for case in one]
    assert len(one) >= 500
    assert names == [(case.kind, case.name, case.said) for case in other]
    assert max(Counter(names).values()) == 1
    for place in range(0, len(one), 40):
        for i, case in enumerate((one[place], other[place])):
            (tmp_path / f"{place}_{i}").mkdir()
            case.write(tmp_path / f"{place}_{i}")
        texts = [
            {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            for folder in (tmp_path / f"{place}_0", tmp_path / f"{place}_1")
        ]
        # A pickle holds the folder that it would make.
        assert texts[0] == texts[1] or "pickle" in one[place].name


def test_every_input_is_refused(tmp_path: Path) -> None:
    """All but most of the command lines, whose processes take long; `make reliability` has them."""
    cases = corpus()
    commands = [place for place, case in enumerate(cases) if case.kind == "command line"]
    places = [place for place in range(len(cases)) if place not in commands[2:]]
    done: list[tuple[int, int]] = []
    found = hostile.try_all(tmp_path, lambda *of: done.append(of), places)
    assert (found.crashes, found.files_harmed, found.said) == (0, 0, {})
    assert found.bad_inputs == found.bad_inputs_refused == len(places)
    assert set(found.by_kind) == {case.kind for case in cases}
    assert done == [(i + 1, len(places)) for i in range(len(places))]
    # Bombs are among them, which unpack to more.
    assert 0 < found.peak_bytes < 2 * broken.BOMB


def test_what_is_not_refused_is_seen(tmp_path: Path) -> None:
    def refuse(text: str) -> Any:
        def read(_: Path) -> object:
            raise InputError(text)

        return read

    def crash(_: Path) -> object:
        raise KeyError("file")

    def harm(folder: Path) -> object:
        (folder / "file").write_text("other")
        raise InputError("file: wrong")

    def escape(folder: Path) -> object:
        (folder / ".." / "file").write_text("new")
        raise InputError("file: wrong")

    expected = {
        refuse("file: wrong"): (1, 0),
        refuse("file:\nwrong"): (0, 0),
        refuse("something is wrong"): (0, 0),
        (lambda _: None): (0, 0),
        crash: (0, 0),
        harm: (1, 1),
        escape: (1, 1),
    }
    for read, (refused, harmed) in expected.items():
        case = Case("made up", "a file", lambda folder: (folder / "file").touch(), read, "file")
        found = hostile.attempt(case, tmp_path / "tried")
        assert (found["refused"], found["harmed"]) == (refused, harmed), found


# What loads pickles or runs text, and who may call it: nobody.
FORBIDDEN = {
    *("pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "yaml"),
    *("eval", "exec", "compile", "allow_pickle", "extractall", "unpack_archive"),
}
# Calls that need a look: where they are, they are told to refuse pickles or cannot read them.
LOOKED_AT = {"loadmat": {"memjax/data/files.py"}, "np.load": set(), "torch.load": set()}


def names(tree: ast.AST) -> set[str]:
    """What a file imports, calls and names as an argument; `np.load` with what it is of."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            found |= {module.partition(".")[0], *(one.name for one in node.names)}
        elif isinstance(node, ast.Call):
            found |= {keyword.arg for keyword in node.keywords if keyword.arg}
            if isinstance(node.func, ast.Name):
                found.add(node.func.id)
            elif isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                called = f"{owner}.{node.func.attr}"
                found |= {called, "" if called in ALLOWED else node.func.attr, owner}
    return found


# Compiling of jax and of regular expressions is none of Python's.
ALLOWED = {"re.compile"}


def sources() -> list[str]:
    folders = ("memjax", "train", "eval", "benchmarks")
    return [str(p.relative_to(ROOT)) for f in folders for p in sorted((ROOT / f).rglob("*.py"))]


@pytest.mark.parametrize("source", sources())
def test_no_pickle_is_loaded_and_no_text_is_run(source: str) -> None:
    tree = ast.parse((ROOT / source).read_text(encoding="utf-8"))
    found = names(tree)
    calls = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not found & (FORBIDDEN - {"eval", "compile"}), source
    assert not calls & {"eval", "exec", "compile", "__import__"}, source
    for call, allowed in LOOKED_AT.items():
        assert call not in found or source in allowed, (source, call)


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "joblib.load(path)",
        "archive.extractall()",
        "exec(text)",
    ],
)
def test_the_search_finds_what_is_forbidden(line: str) -> None:
    assert names(ast.parse(line)) & FORBIDDEN


# ------------------------------------------------------------------------------ properties

READERS = {
    "idx": lambda path: read_idx(path, 3),
    "amat": read_amat,
    "letters": read_letters,
    "zip": read_zip,
    "gzip": gunzip,
}


@pytest.mark.parametrize("reader", READERS)
@given(contents=st.binary(max_size=300))
def test_any_bytes_are_refused(reader: str, contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(contents)
    with pytest.raises(InputError, match=r"^[^\n]*file[^\n]*$"):
        READERS[reader](path)


@given(contents=st.binary(max_size=300))
def test_any_bytes_are_no_npz(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(contents)
    with pytest.raises(InputError, match=r"^[^\n]*mine\.npz[^\n]*$"):
        data.load(str(path))


IMAGES = np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8)
WHOLE = broken.npz(images=IMAGES)


@settings(max_examples=200)
@given(
    place=st.integers(0, len(WHOLE)),
    removed=st.integers(0, 40),
    inserted=st.binary(max_size=40),
)
def test_a_changed_npz_is_refused_or_the_same(
    place: int, removed: int, inserted: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(WHOLE[:place] + inserted + WHOLE[place + removed :])
    try:
        found = data.load(str(path))
    except InputError as error:
        assert "mine.npz" in str(error) and "\n" not in str(error)
    else:
        parts = [found.splits[name].images for name in ("train", "valid", "test")]
        np.testing.assert_array_equal(np.concatenate(parts)[..., 0], IMAGES)


NUMBERS = st.one_of(
    arrays.boolean_dtypes(),
    arrays.integer_dtypes(endianness="?"),
    arrays.floating_dtypes(endianness="?"),
    arrays.unicode_string_dtypes(endianness="?", min_len=1),
)


@given(array=arrays.arrays(NUMBERS, arrays.array_shapes(min_dims=0, min_side=0)))
def test_arrays_come_back_as_they_were(array: np.ndarray) -> None:
    for one in (array, array.T):
        found = read_npy(broken.npy(one))
        assert found.dtype == one.dtype
        np.testing.assert_array_equal(found, one)


HEAD = broken.npy(IMAGES)


@settings(max_examples=300)
@given(place=st.integers(0, 127), inserted=st.binary(min_size=1, max_size=12))
def test_a_changed_header_is_refused_or_means_what_numpy_says(place: int, inserted: bytes) -> None:
    changed = HEAD[:place] + inserted + HEAD[place + len(inserted) :]
    try:
        found = read_npy(changed)
    except DAMAGE:
        return
    np.testing.assert_array_equal(found, np.lib.format.read_array(io.BytesIO(changed)))


@given(array=arrays.arrays(np.uint8, arrays.array_shapes(min_dims=3, max_dims=3, min_side=0)))
def test_idx_comes_back_as_it_was(array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(broken.idx(array))
    np.testing.assert_array_equal(read_idx(path, 3), array)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
FIELDS = sorted(config.flatten(config.fields_of(configs.get("mem_vae_digits"))))


@settings(max_examples=300)
@given(place=st.sampled_from(FIELDS), value=JSON)
def test_a_field_is_refused_or_of_its_kind(place: str, value: Any) -> None:
    fields: dict[str, Any] = {}
    *path, last = place.split(".")
    node = fields
    for part in path:
        node = node.setdefault(part, {})
    node[last] = value
    base = configs.get("mem_vae_digits")
    try:
        found = config.with_fields(base, config.filled(config.defaults_of(base), fields))
        config.check_kinds(found)
        config.check_ranges(found)
    except InputError as error:
        assert place.split(".")[0] in str(error) or place in str(error)
    else:
        assert json.loads(json.dumps(config.fields_of(found)))


@given(document=JSON)
def test_any_json_is_no_configuration(document: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"config\.json: expected a memjax configuration"):
        workdirs.load_fields(str(tmp_path))


@given(field=st.sampled_from([f.name for f in dataclasses.fields(records.Record)]), value=JSON)
def test_a_record_is_refused_or_written_and_read_again(
    field: str, value: Any, tmp_path: Path
) -> None:
    record = {
        **{"experiment": "vae_digits", "task": "likelihood", "dataset": "digits"},
        **{"split": "test", "metric": "elbo", "value": -1.0, "num_samples": 1},
        **{"num_images": 1, "epochs": 1, "steps": 1, field: value},
    }
    path = epath.Path(tmp_path / "results.json")
    path.write_text(json.dumps([record]))
    try:
        found = records.load(path)
    except InputError as error:
        assert "results.json" in str(error) and "\n" not in str(error)
    else:
        records.add(path, found)
        assert records.load(path) == found
