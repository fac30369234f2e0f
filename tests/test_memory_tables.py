"""Tables and pictures of models that address a memory, from records alone."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath

from eval import memory_tables, records
from eval.evaluations import Line
from eval.records import Record
from memjax import plots
from memjax.configs import published
from tests.eval_records import record
from tests.test_tables import table_under

EPISODES = {
    "ways": 8,
    "shots": 4,
    "shots_counted": "per_class",
    "memory_size": 32,
    "image_size": [26, 26, 1],
}
OF_SETS = {"shots_counted": "total", "replacement": True}


def few_shot(metric: str = "nll", value: float = 80.0, **fields: Any) -> Record:
    protocol = {**EPISODES, "replacement": False, "episodes": 100, **fields.pop("protocol", {})}
    common = {"task": "few_shot", "dataset": "omniglot26", "num_samples": 50, "steps": 1000}
    experiment = fields.pop("experiment", "vma_few_shot")
    return record(
        experiment, **{**common, "metric": metric, "value": value, "protocol": protocol, **fields}
    )


def rows(found: list[Record], title: str) -> list[dict[str, str]]:
    return table_under("\n\n".join(memory_tables.tables(found)), title)


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    assert memory_tables.tables([record()]) == []
    assert memory_tables.draw([record()], epath.Path(tmp_path)) == []


def test_the_run_that_was_trained_longest_is_shown() -> None:
    found = [few_shot(value=70.0, steps=9), few_shot(value=60.0, steps=3)]
    (row,) = rows(found, "Few-shot generation, 45")
    assert row["NLL"] == "70.00 ± 0.25" and row["steps"] == "9"
    # More samples count less than more steps, and another memory is another row.
    found += [few_shot(num_samples=500, steps=3), few_shot(protocol={"shots": 1})]
    assert [row["shots"] for row in rows(found, "Few-shot generation, 45")] == ["1", "4"]


def test_a_row_of_few_shot_generation() -> None:
    changed = {
        "changed": {"model.maps": [32, 32], "sampler.shots": 2},
        "baseline": "vae_few_shot, 9 steps",
    }
    measured = {"nll": 80.123, "nll_gain": 9.3, "kl_address": 2.5, "same_class": 0.75}
    found = [
        few_shot(metric, value, stderr=0.5, protocol=changed) for metric, value in measured.items()
    ]
    # What the targets of some of the classes say belongs in a curve.
    found.append(few_shot(protocol={**changed, "target_classes": 1}))
    # A later evaluation without the baseline leaves the gain as it was.
    alone = {"changed": changed["changed"]}
    found[0] = few_shot(value=80.123, stderr=0.5, protocol=alone)
    # Nor does what an earlier checkpoint had beside it make another row.
    found.append(few_shot(value=90.0, steps=9, protocol={**changed, "baseline": "earlier"}))
    (row,) = rows(found, "Few-shot generation, 45")
    assert row == {
        "experiment": "`vma_few_shot` (maps 2x32, shots 2)",
        **{"ways": "8", "shots": "4", "NLL": "80.12 ± 0.50", "below the VAE": "9.30 ± 0.50"},
        "paper's best": "68.8",
        **{"KL(a)": "2.50 ± 0.50", "KL(z)": "-", "same class": "75.0 ± 98.0%"},
        **{"images": "10,000", "samples": "50", "steps": "1,000"},
    }


def test_few_episodes_have_no_error_and_other_baselines_no_gain() -> None:
    few = {"episodes": 4, "baseline": "soft_few_shot, 9 steps"}
    found = [few_shot(metric, 3.0, protocol=few) for metric in ("nll", "nll_gain", "same_class")]
    (row,) = rows(found, "Few-shot generation, 45")
    assert (row["NLL"], row["below the VAE"], row["same class"]) == ("3.00", "-", "300.0%")


def test_of_gains_on_several_vaes_the_newest_is_shown(tmp_path: Path) -> None:
    path = epath.Path(tmp_path) / "vma_few_shot.json"

    def add(baseline: str, gain: float) -> str:
        given = {"baseline": baseline}
        records.add(path, [few_shot("nll_gain", gain, protocol=given), few_shot(protocol=given)])
        (row,) = rows(records.load(path), "Few-shot generation, 45")
        return row["below the VAE"]

    assert add("vae_few_shot, 20 steps", 9.0) == "9.00 ± 0.25"
    assert add("soft_few_shot, 20 steps", 8.0) == "9.00 ± 0.25"
    assert add("vae_few_shot, 8 steps", 17.0) == "17.00 ± 0.25"
    assert add("vae_few_shot, 20 steps", 9.5) == "9.50 ± 0.25"


def test_table_1_knows_both_ways_of_counting() -> None:
    of = {"experiment": "gmn_table1", "dataset": "omniglot28"}
    counted = {"ways": 2, "shots": 5}
    found = [few_shot(**of, protocol={**counted, **OF_SETS}), few_shot(**of, protocol=counted)]
    # Of 26x26 images those whose shots are counted in all, beside them.
    found += [few_shot("copied", 0.5, protocol=OF_SETS), few_shot(protocol=OF_SETS), few_shot()]
    found += [few_shot(**of, split="train"), few_shot(**of, protocol={"target_classes": 1})]
    in_all, per_class, other = rows(found, "Few-shot generation with the background")
    assert (other["pixels"], other["counted"], other["paper"]) == ("26x26", "in all", "-")
    assert other["copied"] == "50.0 ± 49.0%" and in_all["copied"] == "-"
    assert (in_all["counted"], in_all["replacement"], in_all["paper"]) == ("in all", "yes", "78.8")
    assert (per_class["counted"], per_class["paper"]) == ("per class", "-")


@pytest.mark.parametrize(
    ("experiment", "protocol", "expected"),
    [
        ("vma_table1", {"ways": 16, "shots": 19, "shots_counted": "per_class"}, 77.0),
        ("vma_table1", {"ways": 16, "shots": 19, "shots_counted": "total"}, None),
        ("gmn_table1", {"ways": 1, "shots": 10, "shots_counted": "total"}, 59.9),
        ("gmn_table1", {"ways": 16, "shots": 1, "shots_counted": "total"}, None),
        ("vae_few_shot", {"ways": 3, "shots": 1, "shots_counted": "per_class"}, 90.8),
        ("vma_few_shot", {"ways": 8, "shots": 4, "shots_counted": "per_class"}, None),
    ],
)
def test_published_values(
    experiment: str, protocol: dict[str, Any], expected: float | None
) -> None:
    assert published.few_shot_nll(experiment, protocol) == expected


def test_recall_stands_beside_ln_m() -> None:
    common = {"task": "recall", "protocol": {"memory_size": 256}, "stderr": None}
    found = [record("vma_recall", metric="nll", value=5.7, **common)]
    (row,) = rows(found, "Recall")
    assert (row["NLL"], row["ln M"], row["hits"]) == ("5.700", "5.545", "-")
    # By size, and not as names are ordered.
    of_others = [{**common, "protocol": {"memory_size": size}} for size in (1024, 64)]
    found += [record("vma_recall", metric="nll", **fields) for fields in of_others]
    of_size = [(row["images in memory"], row["ln M"]) for row in rows(found, "Recall")]
    assert of_size == [("64", "4.159"), ("256", "5.545"), ("1,024", "6.931")]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "2.5 ± 0.3"),
        ({"model.memory_size": 64}, "2.5 ± 0.3"),
        ({"model.memory_size": 64, "model.prior": "flat"}, "-"),
        ({"model.memory_scale": 0.005}, "-"),
    ],
)
def test_the_papers_kl_is_of_no_other_change(changed: dict[str, Any], expected: str) -> None:
    protocol = {"memory": "learned", "memory_size": 64, "changed": changed}
    common = {"dataset": "binarized_mnist", "metric": "kl_address", "value": 2.4}
    found = [record("vma_learned_mnist", task="memory", protocol=protocol, **common)]
    assert rows(found, "Learned memory")[0]["paper"] == expected


def test_learned_memory_of_mnist_alone_has_the_papers_value() -> None:
    protocol = {"memory": "learned", "memory_size": 64}
    common = {"task": "memory", "metric": "kl_address", "value": 2.4, "stderr": 0.01}
    episode = {**common, "protocol": {**protocol, "memory": "episode"}}
    found = [
        record("vma_learned_mnist", dataset="binarized_mnist", protocol=protocol, **common),
        record("vma_learned_omniglot", dataset="omniglot28", protocol=protocol, **common),
        record("vma_few_shot", **episode),
    ]
    of_mnist = {"dataset": "binarized_mnist", **common, "protocol": protocol}
    entropy = {"metric": "entropy_posterior", "value": math.log(40)}
    found.append(record("vma_learned_mnist", **{**of_mnist, **entropy}))
    found.append(record("vae_learned_mnist", dataset="binarized_mnist", value=-95.0))
    mnist, omniglot, without = rows(found, "Learned memory")
    assert (without["NLL"], without["KL(a)"], without["entries"]) == ("95.00 ± 0.25", "-", "-")
    assert (mnist["KL(a)"], mnist["paper"]) == ("2.40 ± 0.01", "2.5 ± 0.3")
    assert (mnist["in use"], omniglot["in use"]) == ("40", "-")
    assert omniglot["paper"] == "-"


def test_sizes_of_a_learned_memory_hard_beside_soft() -> None:
    def of(experiment: str, nll: float, steps: int = 9, **changed: Any) -> Record:
        protocol = {"changed": {"model.embeddings": "learned", **changed}}
        common = {"dataset": "binarized_mnist", "num_samples": 100, "steps": steps}
        return record(experiment, value=-nll, protocol=protocol, **common)

    found = [
        of("vma_learned_mnist", 93.0, **{"model.memory_size": 4096, "model.block_size": 1024}),
        of("soft_learned_mnist", 95.0, **{"model.memory_size": 4096, "model.blended": "pixels"}),
        of("vma_learned_mnist", 94.0),
        of("vma_learned_mnist", 92.0, steps=90),
        of("soft_learned_mnist", 96.0),  # blends what networks make of the entries
        record("vma_learned_mnist", value=-92.0),  # keys by a network
    ]
    small, large, longer = rows(found, "Learned memory with keys")
    assert (small["entries"], small["hard"], small["soft"]) == ("256", "94.00 ± 0.25", "-")
    assert (large["entries"], large["hard"], large["soft"], large["steps"]) == (
        *("4,096", "93.00 ± 0.25", "95.00 ± 0.25", "9"),
    )
    assert (longer["entries"], longer["hard"], longer["steps"]) == ("256", "92.00 ± 0.25", "90")


def test_accuracies_are_in_percent_with_their_interval() -> None:
    protocol = {"ways": 5, "shots": 1, "episodes": 1000}
    common = {"task": "classification", "protocol": protocol, "num_samples": None}
    found = [record("vma_few_shot", metric="accuracy_q", value=0.9, stderr=0.005, **common)]
    (row,) = rows(found, "Few-shot classification")
    assert (row["by q(a)"], row["paper"], row["by the posterior"]) == ("90.0 ± 1.0%", "91%", "-")


def test_ideal_lines_add_ln_of_the_classes() -> None:
    lines = memory_tables.with_ideal({"a": ([1, 8], [70.0, 90.0]), "b": ([2, 8], [71.0, 91.0])})
    assert list(lines) == ["a", "b", f"{plots.IDEAL}a"]
    np.testing.assert_allclose(lines[f"{plots.IDEAL}a"][1], [70, 70 + math.log(8)])


def test_pictures_of_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    plot = plots.lines

    def lines(of: dict[str, Line], *labels: str, **scales: str) -> Any:
        drawn.append(of)
        return plot(of, *labels, **scales)

    monkeypatch.setattr(plots, "lines", lines)
    curve = {"task": "training", "value": None, "x": [1, 2], "values": [-9, -8]}
    of_64 = {"changed": {"sampler.memory_size": 64}}
    found = [
        *(few_shot(protocol={"ways": ways, "target_classes": 1}) for ways in (1, 2)),
        # There is no ideal to see beside a line from two classes on.
        *(few_shot(protocol={"ways": ways, "shots": 1, "target_classes": 1}) for ways in (2, 4)),
        *(few_shot(protocol={"shots": shots}) for shots in (1, 2)),
        *(
            few_shot(metric, value * shots, protocol={"shots": shots})
            for metric, value in (("kl_address", 3.0), ("kl_latent", 7.0))
            for shots in (1, 2)
        ),
        record("vma_recall", metric="iwae_bound", split="train", **curve),
        record("vma_recall", metric="kl_address", split="train", protocol=of_64, **curve),
        record("vma_recall", metric="iwae_bound", split="valid", **{**curve, "values": [-3, -2]}),
    ]
    made = memory_tables.draw(found, epath.Path(tmp_path))
    names = ("recall", "few_shot_ways", "few_shot_shots", "few_shot_kl")
    assert [line.split("(")[-1] for line in made] == [f"figures/{name}.png)" for name in names]
    for name in names:
        content = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
    of_ways, of_shots, kl, of_recall = drawn
    run = "1,000 steps, 50 samples"
    assert list(of_ways) == [
        *(f"{of}vma_few_shot, 4 shots, {run}" for of in ("", plots.IDEAL)),
    ]
    assert of_shots == {f"vma_few_shot, 8 ways, {run}": ([1, 2], [80.0, 80.0])}
    assert kl == {
        f"KL(a), vma_few_shot, 8 ways, {run}": ([1, 2], [3.0, 6.0]),
        f"KL(z), vma_few_shot, 8 ways, {run}": ([1, 2], [7.0, 14.0]),
    }
    # An NLL is less the bound.
    assert of_recall == {
        "NLL bound, vma_recall": ([1, 2], [9, 8]),
        "ln 256": ([1, 2], [math.log(256)] * 2),
        "KL(a), vma_recall (memory_size 64)": ([1, 2], [-9, -8]),
        "ln 64": ([1, 2], [math.log(64)] * 2),
    }


def test_other_splits_stay_out_of_the_tables() -> None:
    found = [few_shot(value=70.0), few_shot(value=50.0, split="train")]
    (row,) = rows(found, "Few-shot generation, 45")
    assert row["NLL"].startswith("70.00")
    protocol = {"ways": 5, "shots": 1, "episodes": 1000}
    common = {"task": "classification", "metric": "accuracy_q", "value": 0.9, "protocol": protocol}
    assert memory_tables.tables([record("vma_few_shot", split="train", **common)]) == []


def test_models_without_addresses_have_no_kl_of_them(tmp_path: Path) -> None:
    soft = {"changed": {"model.addressing": "soft"}}
    found = [few_shot(metric, protocol=soft) for metric in ("nll", "kl_latent")]
    assert memory_tables.draw(found, epath.Path(tmp_path)) == []


def test_a_line_is_of_one_run_and_one_number_of_samples() -> None:
    def over(*ways: int, **fields: Any) -> list[Record]:
        return [few_shot(protocol={"ways": one, "target_classes": 1}, **fields) for one in ways]

    found = [*over(1, 2, value=9.0), *over(1, 2, value=8.0, steps=2000), *over(2, num_samples=500)]
    lines = memory_tables._over(found, "ways")
    title = "vma_few_shot, 4 shots, 2,000 steps, 50 samples"
    assert lines == {title: ([1, 2], [8.0, 8.0])}
    # A point of other targets is of another line.
    other = {"ways": 4, "target_classes": 1, "episodes": 9}
    found += [few_shot(value=1.0, steps=2000, protocol=other, num_images=3)]
    # As is one whose targets are of all classes.
    found += [few_shot(value=1.0, steps=2000, protocol={"ways": ways}) for ways in (1, 2, 4, 8)]
    assert memory_tables._over(found, "ways") == lines
    # And one whose targets are of more classes, or from more episodes, over as many images.
    for fields in ({"target_classes": 2}, {"target_classes": 1, "episodes": 50}):
        others = [
            few_shot(value=7.0, steps=2000, protocol={"ways": w, **fields}) for w in (2, 4, 8)
        ]
        assert memory_tables._over(others + found, "ways") == {title: ([2, 4, 8], [7.0] * 3)}


def test_more_images_count_more_than_more_samples_and_seeds_more_than_both() -> None:
    def one(value: float, **fields: Any) -> Record:
        return few_shot(value=value, **fields)

    found = [one(1.0, num_images=9, num_samples=6000), one(2.0, num_images=90, num_samples=50)]
    assert rows(found, "Few-shot generation, 45")[0]["NLL"].startswith("2.00")
    found.append(one(3.0, num_images=9, num_samples=5, seeds=[0, 1, 2], stderr_seeds=0.5))
    assert rows(found, "Few-shot generation, 45")[0]["NLL"] == "3.00 ± 0.25 ± 0.50 (3 seeds)"


def test_other_data_have_tables_of_their_own_and_no_figure_of_the_paper() -> None:
    of = {"changed": {"dataset": "strokes"}, "image_size": [28, 28, 1]}
    accuracy = {"ways": 5, "shots": 1, "episodes": 1000, **of}
    found = [
        few_shot(dataset="strokes", protocol=of),
        few_shot(dataset="strokes", protocol={**of, **OF_SETS}),
        few_shot(dataset="strokes", split="train", protocol={**of, "ways": 4}),
        few_shot(dataset="strokes", protocol={**of, "target_classes": 1}),
        few_shot(protocol={"changed": {"dataset": "omniglot26"}}),
        record("vma_few_shot", task="classification", metric="accuracy_q", protocol=accuracy),
    ]
    (row,) = rows(found, "Few-shot generation on other data")
    assert (row["data"], row["ways"], row["shots"], row["NLL"]) == (
        *("strokes", "8", "4"),
        "80.00 ± 0.25",
    )
    assert rows(found, "Few-shot classification")[0]["paper"] == "-"
    (row,) = rows(found, "Few-shot generation with the background")
    assert (row["counted"], row["paper"]) == ("in all", "-")


def test_the_short_form_has_the_papers_episodes_alone() -> None:
    found = [few_shot(), few_shot(protocol={"ways": 144}), few_shot(protocol=OF_SETS)]
    (table,) = memory_tables.tables(found, short=True)
    (row,) = table_under(table, "Few-shot generation, 45")
    assert (row["ways"], row["shots"]) == ("8", "4")
    assert len(memory_tables.tables(found)) == 2
