"""Experiments and their JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from memjax import config, configs, workdirs
from memjax.config import Experiment
from memjax.errors import InputError

CHANGED = dataclasses.replace(
    configs.get("mem_vae_ocr"),
    seed=2**32 - 1,
    dataset="own.npz",
    model=configs.get("mem_vae_ocr").model.clone(
        image_shape=(4, 3, 1), hidden=(7,), slots=(), likelihood="gaussian", batch_norm=False
    ),
    objective=dataclasses.replace(configs.get("mem_vae_ocr").objective, num_samples=7),
    data=config.DataConfig(merge_validation=True, split_order="random", split_seed=3),
    optimizer=config.OptimizerConfig(learning_rate=1e-7, decay=1.0),
    train=config.TrainConfig(num_epochs=1, precision="bfloat16", call_seconds=0.1),
)


def there_and_back(experiment: Experiment, workdir: Path) -> Experiment:
    workdirs.save(experiment, str(workdir), "0123")
    fields = workdirs.load_fields(str(workdir))
    return config.with_fields(configs.get(fields["name"]), fields)


@pytest.mark.parametrize("name", configs.EXPERIMENTS)
def test_every_experiment_survives_its_json(name: str, tmp_path: Path) -> None:
    experiment = configs.get(name)
    assert experiment.name == name
    assert there_and_back(experiment, tmp_path) == experiment


def test_changed_fields_survive_their_json(tmp_path: Path) -> None:
    found = there_and_back(CHANGED, tmp_path)
    assert found == CHANGED
    assert hash(found.model) == hash(CHANGED.model)  # lists came back as tuples


def test_the_file_says_everything_and_its_version(tmp_path: Path) -> None:
    workdirs.save(CHANGED, str(tmp_path), "0123")
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["format_version"] == workdirs.FORMAT_VERSION
    assert document["data_sha256"] == "0123"
    fields = document["fields"]
    assert fields["name"] == "mem_vae_ocr" and fields["model"]["slots"] == []
    for part in ("data", "optimizer", "train"):
        expected = dataclasses.asdict(getattr(CHANGED, part))
        assert fields[part] == json.loads(json.dumps(expected))  # tuples become lists
    # What the program sets, or linen, is no field of the experiment.
    assert not {"parent", "name", "batch_axes", "precision"} & set(fields["model"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        # What a module can do is no field.
        ({"model": {"apply": 3}}, r"^model.apply: unknown field"),
        ({"model": {"parent": 3}}, r"^model.parent: unknown field"),
        ({"objective": {"__call__": 3}}, r"^objective.__call__: unknown field"),
        ({"sead": 3}, r"^sead: unknown field, expected one of name, model, .*seed"),
        ({"model": {"slot": [3]}}, r"^model.slot: unknown field, expected one of .*slots"),
        ({"train": {"epochs": 3}}, r"^train.epochs: unknown field, expected one of num_epochs"),
        ({"train": 3}, r"^train: found 3, expected an object"),
        ({"model": [1, 2]}, r"^model: found \[1, 2\], expected an object"),
    ],
)
def test_unknown_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.with_fields(CHANGED, fields)


@pytest.mark.parametrize("name", configs.EXPERIMENTS)
def test_every_experiment_has_values_of_the_right_kinds(name: str) -> None:
    config.check_kinds(configs.get(name))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": 3}, r"^dataset: found 3, expected str$"),
        ({"train": {"num_epochs": "ten"}}, r"^train.num_epochs: found 'ten', expected int$"),
        ({"model": {"slots": 3}}, r"^model.slots: found 3, expected tuple\[int, \.\.\.\]$"),
        ({"model": {"slots": [3, 1.5]}}, r"^model.slots: found \(3, 1.5\), expected tuple\[int"),
        ({"model": {"attention": "hard"}}, r"found 'hard', expected one of sigmoid, softmax$"),
    ],
)
def test_values_of_another_kind(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.check_kinds(config.with_fields(CHANGED, fields))


def test_whole_numbers_are_numbers() -> None:
    config.check_kinds(config.with_fields(CHANGED, {"optimizer": {"decay": 1}}))


@pytest.mark.parametrize(("b1", "same"), [(0.9, True), (0.8, False)])
def test_fields_added_since_a_run_was_saved(b1: float, same: bool, tmp_path: Path) -> None:
    workdirs.save(CHANGED, str(tmp_path), "0123")
    path = tmp_path / "config.json"
    document = json.loads(path.read_text())
    del document["fields"]["optimizer"]["b1"]
    path.write_text(json.dumps(document))
    given = dataclasses.replace(CHANGED, optimizer=dataclasses.replace(CHANGED.optimizer, b1=b1))
    if same:
        workdirs.check_same_run(given, str(tmp_path))
    else:
        with pytest.raises(InputError, match=r"holds a run with optimizer.b1 0.9, found 0.8"):
            workdirs.check_same_run(given, str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format_version": 1}',
        '{"format_version": 1, "fields": {}}',
        '{"format_version": 1, "fields": []}',
        '{"format_version": 1, "fields": {"name": 3}}',
    ],
)
def test_what_is_no_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json: expected a memjax configuration in JSON"):
        workdirs.load_fields(str(tmp_path))


def test_another_version(tmp_path: Path) -> None:
    workdirs.save(CHANGED, str(tmp_path), "0123")
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(InputError, match=r"config.json: found format version 2, .* reads 1"):
        workdirs.load_fields(str(tmp_path))


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config.json: not found, expected the workdir"):
        workdirs.load_fields(str(tmp_path))


def test_flat_names() -> None:
    flat = config.flatten(config.fields_of(CHANGED))
    assert flat["model.hidden"] == (7,) and flat["train.num_epochs"] == 1
    assert not any(isinstance(value, dict) for value in flat.values())
    assert set(flat) >= config.MAY_CHANGE


def test_the_nearest_experiments_are_named() -> None:
    with pytest.raises(InputError, match=r"'mem_vae_minst': unknown, expected .*mem_vae_mnist"):
        configs.get("mem_vae_minst")
    with pytest.raises(InputError, match=r"'zzz': unknown, expected one of .*vae_ocr"):
        configs.get("zzz")
