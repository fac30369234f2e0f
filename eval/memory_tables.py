"""The tables and pictures of models that address a memory, from their records."""

import math

from etils import epath

from memjax import configs, plots
from memjax.configs import published

from .evaluations import DASH, GAIN, Evaluation, Line, evaluations, name, percent, table, value
from .files import save_figure
from .records import Record


def tables(found: list[Record], short: bool = False) -> list[str]:
    """Markdown of every table that there are records for.

    Args:
        found: records.
        short: leave out the rows with another number of classes or images in memory than in the
            paper's training, and shots that are counted in all.
    """
    few_shot = _of_26(found)
    if short:
        few_shot = [group for group in few_shot if _ways_and_shots(group["nll"])[1:] == (8, 4)]
    made = (
        _recall_table(found),
        _learned_table(found),
        _sizes_table(found),
        _few_shot_table(few_shot),
        *(() if short else (_table_1(found), _few_shot_elsewhere(found))),
        _classification_table(found),
    )
    return [table for table in made if table]


def _recall_table(found: list[Record]) -> str:
    head = ("experiment", "split", "images in memory", "NLL", "ln M", "KL(a)", "KL(z)", "hits")
    rows = [
        (
            name(group["nll"]),
            group["nll"].split,
            f"{group['nll'].protocol['memory_size']:,}",
            value(group, "nll", 3),
            f"{math.log(group['nll'].protocol['memory_size']):.3f}",
            value(group, "kl_address", 3),
            value(group, "kl_latent", 3),
            percent(group, "same_class"),
            *_said(group["nll"]),
        )
        for group in sorted(evaluations(found, "recall", "nll"), key=_entries)
    ]
    title = (
        "Recall: images that are in memory, ± standard errors, of hits 95% intervals. A lookup "
        "table has an NLL and a KL(a) of ln M, nats."
    )
    return table(title, (*head, *_SAID), rows)


def _learned_table(found: list[Record]) -> str:
    head = ("experiment", "split", "entries", "NLL", BELOW, "KL(a)", "paper", "ln M")
    more = ("in use", "dead", "KL(z)", "NLL, shuffled")
    rows = []
    groups = evaluations(found, "memory", "kl_address")
    for group in sorted(groups, key=_entries):
        one = group["kl_address"]
        if one.protocol["memory"] != "learned":
            continue
        rows.append(
            (
                name(one),
                one.split,
                f"{one.protocol['memory_size']:,}",
                value(group, "nll"),
                value(group, GAIN),
                value(group, "kl_address"),
                _paper_kl(one),
                f"{math.log(one.protocol['memory_size']):.2f}",
                value(group, "entropy_prior"),
                _in_use(group),
                percent(group, "dead_entries"),
                value(group, "kl_latent"),
                value(group, "nll_shuffled"),
                *_said(one),
            )
        )
    # The matched VAEs have no addresses to measure.
    for group in evaluations(found, "likelihood", "log_likelihood"):
        one = group["log_likelihood"]
        if one.experiment in MATCHED:
            nll, latent = value(group, "log_likelihood", sign=-1), value(group, "kl_latent")
            dashes = (DASH,) * 7
            rows.append((name(one), one.split, DASH, nll, *dashes, latent, DASH, *_said(one)))
    title = (
        "Learned memory, nats, ± standard errors. `below the VAE` is of the same images, target by "
        "target; the VAE's own rows are of more. Entries in use are the exponential of the entropy "
        "of the mean q(a | x), and dead ones have less than a hundredth of an even share of it. "
        "The paper has its KL(a) for several sizes of memory, of nothing else changed:"
    )
    return table(title, (*head, "entropy of p(a)", *more, *_SAID), rows)


def _sizes_table(found: list[Record]) -> str:
    """NLL over the number of entries, of those that have keys of their own, hard beside soft."""
    by_size: dict[tuple[int, int, int], dict[str, Evaluation]] = {}
    for group in evaluations(found, "likelihood", "log_likelihood", apart=True):
        one = group["log_likelihood"]
        changed = one.protocol.get("changed", {})
        if one.experiment in SIZES and changed.items() >= SIZES[one.experiment]:
            size = changed.get("model.memory_size", configs.get(HARD).model.memory_size)
            key = (one.steps or 0, one.num_images or 0, size)
            by_size.setdefault(key, {})[one.experiment] = group
    rows = [
        (
            f"{size:,}",
            *(value(of.get(kind, {}), "log_likelihood", sign=-1) for kind in (HARD, SOFT)),
            value(of.get(HARD, {}), "kl_address"),
            *_said(next(iter(of.values()))["log_likelihood"]),
        )
        for (_, _, size), of in sorted(by_size.items())
    ]
    title = (
        "Learned memory with keys of its own, NLL and KL(a) in nats, ± standard errors. Soft "
        "attention blends the entries, not what networks make of each (`model.blended pixels`), as "
        "in the times by size:"
    )
    return table(title, ("entries", "hard", "soft", "KL(a)", *_SAID), rows)


def _entries(group: Evaluation) -> tuple[str, int, str, str]:
    """The order of rows: by data, then by entries."""
    one = next(iter(group.values()))
    return one.dataset, one.protocol["memory_size"], name(one), one.split


def _paper_kl(one: Record) -> str:
    """The paper's KL(a), which is of MNIST and of several sizes of memory."""
    as_published = set(one.protocol.get("changed", {})) <= {"model.memory_size"}
    mnist = one.experiment == "vma_learned_mnist"
    return "2.5 ± 0.3" if mnist and as_published else DASH


def _in_use(group: Evaluation) -> str:
    one = group.get("entropy_posterior")
    return DASH if one is None else f"{math.exp(one.value or 0.0):.0f}"


def _few_shot_table(groups: list[Evaluation]) -> str:
    head = ("experiment", "ways", "shots", "NLL", BELOW, "paper's best", "KL(a)", "KL(z)")
    rows = [
        (
            name(group["nll"]),
            str(group["nll"].protocol["ways"]),
            str(group["nll"].protocol["shots"]),
            value(group, "nll"),
            value(group, GAIN),
            _number(published.FEW_SHOT.get(group["nll"].experiment)),
            value(group, "kl_address"),
            value(group, "kl_latent"),
            percent(group, "same_class"),
            *_said(group["nll"]),
        )
        for group in groups
        if "target_classes" not in group["nll"].protocol
    ]
    title = (
        "Few-shot generation, 45 and 5 alphabets of Omniglot in 26x26, shots per class, memory and "
        "targets disjoint, nats. `below the VAE` is of the same targets, one by one; rows of other "
        "ways or shots have other targets. `paper's best` is the best that it reports of a kind of "
        "model, not of these ways and shots: of soft attention with 16 images of one or two "
        "classes in memory. Standard errors over episodes, of percentages 95% intervals, none "
        "below ten:"
    )
    return table(title, (*head, "same class", *_SAID), rows)


def _few_shot_elsewhere(found: list[Record]) -> str:
    head = ("experiment", "data", "ways", "shots", "NLL", BELOW, "KL(a)", "KL(z)", "same class")
    rows = [
        (
            name(group["nll"]),
            group["nll"].dataset,
            *(str(group["nll"].protocol[of]) for of in ("ways", "shots")),
            value(group, "nll"),
            value(group, GAIN),
            value(group, "kl_address"),
            value(group, "kl_latent"),
            percent(group, "same_class"),
            *_said(group["nll"]),
        )
        for group in sorted(evaluations(found, "few_shot", "nll"), key=_by_ways_and_shots)
        if group["nll"].dataset not in ("omniglot26", "omniglot28")
        and group["nll"].split == "test"
        and group["nll"].protocol["shots_counted"] == "per_class"
        and "target_classes" not in group["nll"].protocol
    ]
    title = "Few-shot generation on other data than the paper's, nats:"
    return table(title, (*head, *_SAID), rows)


def _of_26(found: list[Record], apart: bool = False) -> list[Evaluation]:
    groups = [
        group
        for group in evaluations(found, "few_shot", "nll", apart)
        if group["nll"].dataset == "omniglot26"
        and group["nll"].split == "test"
        and group["nll"].protocol["shots_counted"] == "per_class"
    ]
    return sorted(groups, key=_by_ways_and_shots)


def _by_ways_and_shots(group: Evaluation) -> tuple[str, int, int, str]:
    """The order of rows of few-shot generation: runs of one experiment by their changes at last."""
    return *_ways_and_shots(group["nll"]), name(group["nll"])


def _ways_and_shots(one: Record) -> tuple[str, int, int]:
    return one.experiment, one.protocol["ways"], one.protocol["shots"]


def _table_1(found: list[Record]) -> str:
    head = ("experiment", "pixels", "ways", "shots", "counted", "replacement", "NLL", "paper")
    groups = [
        group
        for group in evaluations(found, "few_shot", "nll")
        if group["nll"].split == "test"
        and "target_classes" not in group["nll"].protocol
        and (
            group["nll"].dataset == "omniglot28"
            or group["nll"].protocol["shots_counted"] == "total"
        )
    ]
    rows = []
    for group in sorted(groups, key=_by_ways_and_shots):
        one = group["nll"]
        said = one.protocol
        paper = None if _on_other_data(one) else published.few_shot_nll(one.experiment, said)
        counted = "per class" if said["shots_counted"] == "per_class" else "in all"
        rows.append(
            (
                name(one),
                "x".join(map(str, said["image_size"][:2])),
                *(str(said["ways"]), str(said["shots"]), counted),
                "yes" if said["replacement"] else "no",
                value(group, "nll"),
                _number(paper),
                percent(group, "copied"),
                *_said(one),
            )
        )
    title = (
        "Few-shot generation with the background and evaluation classes of Omniglot in 28x28, or "
        "with shots counted in all, nats. `copied` is how many targets are in memory too, a leak "
        "of drawing with replacement:"
    )
    return table(title, (*head, "copied", *_SAID), rows)


def _on_other_data(one: Record) -> bool:
    """Whether it is of other images than the paper's, though of a model like its own."""
    return "dataset" in one.protocol.get("changed", {})


def _classification_table(found: list[Record]) -> str:
    head = ("experiment", "ways", "shots", "by q(a)", "paper", "by the posterior", "episodes")
    rows = []
    groups = evaluations(found, "classification", "accuracy_q")
    for group in sorted(groups, key=lambda group: _ways_and_shots(group["accuracy_q"])):
        one = group["accuracy_q"]
        if one.split != "test":
            continue
        said = one.protocol
        paper = None if _on_other_data(one) else published.accuracy(one.experiment, said)
        rows.append(
            (
                name(one),
                *(str(said["ways"]), str(said["shots"])),
                percent(group, "accuracy_q"),
                DASH if paper is None else f"{100 * paper:.0f}%",
                percent(group, "accuracy_posterior"),
                f"{said['episodes']:,}",
                *_said(one),
            )
        )
    title = "Few-shot classification without training for it, with 95% intervals over episodes:"
    return table(title, (*head, *_SAID), rows)


BELOW = "below the VAE"
_SAID = ("images", "samples", "steps")
MATCHED = ("vae_learned_mnist", "vae_learned_omniglot")
HARD, SOFT = "vma_learned_mnist", "soft_learned_mnist"
OWN_KEYS = {("model.embeddings", "learned")}
SIZES = {HARD: OWN_KEYS, SOFT: OWN_KEYS | {("model.blended", "pixels")}}


def _said(one: Record) -> tuple[str, ...]:
    numbers = (one.num_images, one.num_samples, one.steps)
    return tuple(DASH if number is None else f"{number:,}" for number in numbers)


def _number(found: float | None) -> str:
    return DASH if found is None else f"{found:.1f}"


def draw(found: list[Record], folder: epath.Path) -> list[str]:
    """Draw every picture that there are records for; returns them in Markdown."""
    shots = _over(found, "shots")
    # From one class on, so that the ideal stands beside it.
    ways = {title: line for title, line in _over(found, "ways").items() if line[0][0] == 1}
    kl = {
        f"{metric}, {title}": line
        for metric, of in (("KL(a)", "kl_address"), ("KL(z)", "kl_latent"))
        for title, line in _over(found, "shots", of).items()
    }
    pictures = {
        "few_shot_ways": (with_ideal(ways), "classes in memory", "NLL, nats"),
        "few_shot_shots": (shots, "images of each class in memory", "NLL, nats"),
        "few_shot_kl": (kl, "images of each class in memory", "KL, nats"),
    }
    titles = {
        "recall": "Recall, NLL and KL(a) in training",
        "few_shot_ways": "NLL of the same targets by classes in memory, and with ln of the classes",
        "few_shot_shots": "NLL by images of each class in memory, of other targets at each point",
        "few_shot_kl": "KL of the address and of z by images in memory",
    }
    figures = {
        picture: plots.lines(lines, x_label, y_label, "log")
        for picture, (lines, x_label, y_label) in pictures.items()
        if any(len(x) > 1 for x, _ in lines.values())
    }
    if recall := _recall_curves(found):
        figures = {"recall": plots.lines(recall, "epoch", "nats", y_scale="log"), **figures}
    for picture, figure in figures.items():
        save_figure(figure, folder / f"figures/{picture}.png")
    return [f"![{titles[picture]}](figures/{picture}.png)" for picture in figures]


def _recall_curves(found: list[Record]) -> dict[str, Line]:
    curves: dict[str, Line] = {}
    for one in found:
        if one.experiment == "vma_recall" and one.task == "training" and one.split == "train":
            sign = -1 if one.metric == "iwae_bound" else 1
            title = {"iwae_bound": "NLL bound", "kl_address": "KL(a)"}.get(one.metric)
            if title is not None and one.x is not None and one.values is not None:
                curves[f"{title}, {name(one)}".replace("`", "")] = (
                    one.x,
                    [sign * value for value in one.values],
                )
                # A lookup table of 256 images has both.
                size = one.protocol.get("changed", {}).get("sampler.memory_size", 256)
                level = math.log(size)
                curves[f"ln {size}"] = ([one.x[0], one.x[-1]], [level, level])
    return curves


def _over(found: list[Record], axis: str, metric: str = "nll") -> dict[str, Line]:
    """A metric over ways or over shots, of what is otherwise the same; of each run trained longest.

    As many episodes and targets stand behind all points of a line; over ways the targets are the
    same, those of the first classes. Where a run was evaluated in several such ways, the one with
    most points is drawn.
    """
    other = {"ways": "shots", "shots": "ways"}[axis]
    lines: dict[tuple[str, int, int, str], Line] = {}
    for group in _of_26(found, apart=True):
        nested = "target_classes" in group["nll"].protocol
        if metric in group and nested == (axis == "ways"):
            one = group[metric]
            said = one.protocol
            title = f"{name(one)}, {said[other]} {other}".replace("`", "")
            of_targets = ("episodes", "num_targets", "target_classes")
            targets = " ".join(str(said.get(field)) for field in of_targets)
            key = (title, one.steps or 0, one.num_samples or 0, targets)
            x, y = lines.setdefault(key, ([], []))
            x.append(said[axis])
            y.append(one.value or 0.0)
    # The longest training, and then the most points, come last and stay.
    order = sorted(lines, key=lambda key: (key[0], key[1], len(lines[key][0])))
    chosen = {key[0]: key for key in order if len(lines[key][0]) > 1}
    return {
        f"{title}, {steps:,} steps, {samples:,} samples": lines[title, steps, samples, targets]
        for title, steps, samples, targets in chosen.values()
    }


def with_ideal(lines: dict[str, Line]) -> dict[str, Line]:
    """With each line that begins at one class, what it would be if more cost their ln alone."""
    ideal: dict[str, Line] = {
        f"{plots.IDEAL}{title}": (x, [y[0] + math.log(ways) for ways in x])
        for title, (x, y) in lines.items()
        if x[0] == 1
    }
    return {**lines, **ideal}
