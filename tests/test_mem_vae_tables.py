"""The tables of the first paper beside its likelihoods, from records alone."""

from pathlib import Path
from typing import Any

from etils import epath

from eval import mem_vae_tables
from eval.records import Record
from tests.eval_records import PROTOCOL, record
from tests.test_tables import table_under


def rows(found: list[Record], title: str) -> list[dict[str, str]]:
    return table_under("\n\n".join(mem_vae_tables.tables(found)), title)


def imputed(experiment: str, mask: str, **fields: Any) -> list[Record]:
    protocol = {"mask": mask, "passes": 3, "batch_norm": "batch", "batch_size": 1000}
    common = {"task": "imputation", "protocol": protocol, "epochs": 30, "num_samples": None}
    curve = {"x": [1.0, 2.0, 3.0], "values": [0.3, 0.2, 0.1]}
    return [
        record(experiment, metric="mse", value=0.1, stderr=0.001, **{**common, **fields}),
        record(experiment, metric="mse_by_pass", value=None, **curve, **{**common, **fields}),
    ]


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    others = [record(), record("avme_digits", dataset="digits")]
    assert mem_vae_tables.tables(others) == []
    assert mem_vae_tables.draw(others, epath.Path(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_frey_faces_by_batch_size() -> None:
    frey = {"dataset": "frey_faces", "num_images": 100, "epochs": 1000}
    found = [
        record("mem_vae_frey_batch_10", metric="elbo", value=1200.4, paper=1240.0, **frey),
        record("mem_vae_frey_batch_10", value=1250.6, stderr=12.0, **frey),
        record("vae_mnist", metric="elbo"),
        *[record("vae_frey", metric="elbo", split=split, **frey) for split in ("train", "valid")],
    ]
    assert rows(found, "Frey faces") == [
        {
            **{"experiment": "`mem_vae_frey_batch_10`", "batch": "10", "paper": "1240"},
            **{"ELBO": "1200 ± 0", "log p(x)": "1251 ± 12", "samples": "5,000"},
            **{"images": "100", "epochs": "1,000"},
        }
    ]


def test_runs_of_other_data_and_fields_have_rows() -> None:
    changed = {**PROTOCOL, "changed": {"dataset": "mine.npz", "model.slots": [20, 10]}}
    less_precise = {**PROTOCOL, "precision": "bfloat16"}
    found = [
        record("vae_digits", dataset="digits", value=-22.9, num_images=250, epochs=200),
        record("vae_digits", dataset="digits", split="valid"),
        record("vae_digits", dataset="digits", protocol=less_precise, num_images=250, epochs=200),
        record("mem_vae_ocr", dataset="mine.npz", protocol=changed, epochs=2.55, seeds=[0, 1]),
        record("mem_vae_ocr", dataset="ocr_letters"),
        record("vae_frey", dataset="frey_faces", metric="elbo"),
        record("vae_frey", dataset="frey_faces"),
        record("avme_digits", dataset="digits"),
    ]
    shown = rows(found, "Other data and other fields")
    assert [list(row.values()) for row in shown] == [
        ["`vae_digits`", "digits", "pass", "-", "-22.90 ± 0.25", "5,000", "250", "200"],
        [
            *("`vae_digits`", "digits", "pass, bfloat16", "-"),
            *("-86.00 ± 0.25", "5,000", "250", "200"),
        ],
        [
            *("`mem_vae_ocr` (dataset mine.npz, slots 20 10)", "mine.npz", "pass", "-"),
            *("-86.00 ± 0.25", "5,000", "10,000", "2.5"),
        ],
    ]


def test_imputation_by_mask(tmp_path: Path) -> None:
    found = [
        *imputed("vae_mnist", "rect-12", paper=0.1403),
        *imputed("vae_mnist", "half", paper=0.055),
        *imputed("mem_vae_mnist", "half", paper=None),
    ]
    shown = rows(found, "Imputation")
    assert [(row["experiment"], row["missing"], row["paper"]) for row in shown] == [
        ("`vae_mnist`", "half", "0.0550"),
        ("`mem_vae_mnist`", "half", "-"),
        ("`vae_mnist`", "rect-12", "0.1403"),
    ]
    assert shown[0]["ours"] == "0.1000 ± 0.0010"
    assert shown[0]["batch norm"] == "batch of 1,000"
    pictures = mem_vae_tables.draw(found, epath.Path(tmp_path))
    assert [one.rpartition("/")[2] for one in pictures] == [
        "imputation_passes_half.png)",
        "imputation_passes_rect-12.png)",
    ]
    for name in ("half", "rect-12"):
        path = tmp_path / "figures" / f"imputation_passes_{name}.png"
        assert path.read_bytes().startswith(b"\x89PNG")


def test_accuracy_of_features_in_percent() -> None:
    protocol = {"binarisation_seed": None, "regularisation": 1e-4, "batch_norm": "pass"}
    common = {"task": "features", "metric": "accuracy", "stderr": 0.0015}
    found = [
        record(value=0.9725, paper=0.979, protocol=protocol, **common),
        record(value=0.97, paper=None, protocol={**protocol, "binarisation_seed": 0}, **common),
    ]
    assert [
        (row["input"], row["paper"], row["ours"]) for row in rows(found, "Accuracy of a linear")
    ] == [
        ("as they are", "97.90%", "97.25 ± 0.15%"),
        ("binarised", "-", "97.00 ± 0.15%"),
    ]


def test_slots_by_layer_and_what_they_are_worth() -> None:
    of_layer = {"task": "slots", "protocol": {**PROTOCOL, "layer": 1}, "stderr": None}
    disabled = {"task": "slots", "protocol": {**PROTOCOL, "disabled": [0, 1]}, "num_samples": 500}
    found = [
        record("mem_vae_mnist", metric="slot_entropy", value=3.3, **of_layer),
        record("mem_vae_mnist", metric="dead_slots", value=0.1, **of_layer),
        record("mem_vae_mnist", metric="nll_cost", value=14.5, **disabled),
    ]
    (row,) = rows(found, "Memory slots")
    assert (row["layer"], row["entropy"], row["dead"]) == ("1", "3.30", "10.0%")
    (row,) = rows(found, "What the NLL")
    assert (row["layers"], row["cost"], row["samples"]) == ("0, 1", "14.50 ± 0.25", "500")
