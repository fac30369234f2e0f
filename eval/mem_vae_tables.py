"""The tables and pictures of the first paper beside its likelihoods, from their records."""

from etils import epath

from memjax import plots
from memjax.configs import mem_vae

from .evaluations import DASH, Evaluation, Line, epochs, evaluations, name, table, value
from .files import save_figure
from .records import Record

FREY = "frey_faces"
TABULATED = ("mnist", "ocr_letters", FREY)  # whose experiments have rows of their own
_TRAINED = ("images", "epochs")


def tables(found: list[Record]) -> list[str]:
    """Markdown of every table that there are records for."""
    made = (
        _frey_table(found),
        _imputation_table(found),
        _features_table(found),
        _slots_table(found),
        _cost_table(found),
        _others_table(found),
    )
    return [table for table in made if table]


def _trained(one: Record) -> tuple[str, str]:
    return f"{one.num_images:,}", epochs(one)


def _of_paper(one: Record, digits: int) -> str:
    return DASH if one.paper is None else f"{one.paper:.{digits}f}"


def _given(one: Record) -> str:
    return ", given y" if one.protocol.get("given_labels") else ""


def _batch_norm(one: Record) -> str:
    """Where the statistics of batch norm are from; a batch is of some size."""
    size = one.protocol.get("batch_size")
    return str(one.protocol["batch_norm"]) + ("" if size is None else f" of {size:,}")


def _precision(one: Record) -> str:
    """Said where it is not float32."""
    precision = one.protocol.get("precision") or "float32"
    return "" if precision == "float32" else f", {precision}"


def _frey_table(found: list[Record]) -> str:
    rows = []
    for group in evaluations(found, "likelihood", "elbo"):
        one = group["elbo"]
        if one.dataset != FREY or one.split != "test":
            continue
        experiment = mem_vae.EXPERIMENTS.get(one.experiment)
        default = experiment.train.batch_size if experiment else DASH
        rows.append(
            (
                name(one),
                str(one.protocol.get("changed", {}).get("train.batch_size", default)),
                _of_paper(one, 0),
                value(group, "elbo", 0),
                value(group, "log_likelihood", 0),
                f"{one.num_samples:,}",
                *_trained(one),
            )
        )
    title = (
        "Frey faces, test split, nats of a density (higher is better). The paper's figure is the "
        "ELBO; log p(x) is the importance-weighted estimate:"
    )
    head = ("experiment", "batch", "paper", "ELBO", "log p(x)", "samples", *_TRAINED)
    return table(title, head, rows)


def _imputation_table(found: list[Record]) -> str:
    rows = [
        (
            name(group["mse"]) + _given(group["mse"]),
            group["mse"].protocol["mask"],
            _of_paper(group["mse"], 4),
            value(group, "mse", 4),
            str(group["mse"].protocol["passes"]),
            _batch_norm(group["mse"]),
            *_trained(group["mse"]),
        )
        for group in _imputations(found)
    ]
    title = "Imputation: mean squared error of a missing pixel, test split:"
    head = ("experiment", "missing", "paper", "ours", "passes", "batch norm", *_TRAINED)
    return table(title, head, rows)


def _imputations(found: list[Record]) -> list[Evaluation]:
    groups = evaluations(found, "imputation", "mse")
    return sorted(groups, key=lambda group: str(group["mse"].protocol["mask"]))


def _features_table(found: list[Record]) -> str:
    rows = []
    for group in evaluations(found, "features", "accuracy"):
        one = group["accuracy"]
        paper = DASH if one.paper is None else f"{100 * one.paper:.2f}%"
        error = "" if one.stderr is None else f" ± {100 * one.stderr:.2f}"
        binarised = one.protocol["binarisation_seed"] is not None
        rows.append(
            (
                name(one),
                "binarised" if binarised else "as they are",
                f"{one.protocol['regularisation']:g}",
                _batch_norm(one),
                paper,
                f"{100 * (one.value or 0.0):.2f}{error}%",
                *_trained(one),
            )
        )
    title = "Accuracy of a linear support vector machine on the last recognition layer, test split:"
    return table(
        title, ("experiment", "input", "lambda", "batch norm", "paper", "ours", *_TRAINED), rows
    )


def _slots_table(found: list[Record]) -> str:
    rows = [
        (
            name(group["slot_entropy"]),
            str(group["slot_entropy"].protocol["layer"]),
            _batch_norm(group["slot_entropy"]),
            value(group, "slot_entropy"),
            f"{100 * (group['dead_slots'].value or 0.0):.1f}%",
            *_trained(group["slot_entropy"]),
        )
        for group in evaluations(found, "slots", "slot_entropy")
    ]
    title = "Memory slots: entropy in nats of the preferences averaged over images, and dead slots:"
    return table(title, ("experiment", "layer", "batch norm", "entropy", "dead", *_TRAINED), rows)


def _cost_table(found: list[Record]) -> str:
    rows = [
        (
            name(group["nll_cost"]),
            ", ".join(map(str, group["nll_cost"].protocol["disabled"])),
            _batch_norm(group["nll_cost"]),
            value(group, "nll_cost"),
            f"{group['nll_cost'].num_samples:,}",
            *_trained(group["nll_cost"]),
        )
        for group in evaluations(found, "slots", "nll_cost")
    ]
    title = "What the NLL of test images rises by with the memory of layers disabled, nats:"
    return table(title, ("experiment", "layers", "batch norm", "cost", "samples", *_TRAINED), rows)


def _others_table(found: list[Record]) -> str:
    """Runs of other data or other fields, that are in none of the paper's tables."""
    rows = []
    for group in evaluations(found, "likelihood", "log_likelihood"):
        one = group["log_likelihood"]
        experiment = mem_vae.EXPERIMENTS.get(one.experiment)
        if experiment is None or one.split != "test" or one.dataset == FREY:
            continue
        if experiment.dataset in TABULATED and "changed" not in one.protocol:
            continue
        rows.append(
            (
                name(one),
                one.dataset,
                _batch_norm(one) + _precision(one),
                value(group, "elbo"),
                value(group, "log_likelihood"),
                f"{one.num_samples:,}",
                *_trained(one),
            )
        )
    title = "Other data and other fields, test split, nats (higher is better):"
    head = ("experiment", "data", "batch norm", "ELBO", "log p(x)", "samples", *_TRAINED)
    return table(title, head, rows)


def draw(found: list[Record], folder: epath.Path) -> list[str]:
    """Draw the error of imputation over passes, a picture for each mask, in Markdown."""
    lines: dict[str, dict[str, Line]] = {}
    for group in _imputations(found):
        if (curve := group.get("mse_by_pass")) is not None:
            title = f"{name(curve)}{_given(curve)}, {_batch_norm(curve)}".replace("`", "")
            points = (curve.x or [], curve.values or [])
            lines.setdefault(str(curve.protocol["mask"]), {})[
                f"{title}, {len(points[0])} passes"
            ] = points
    pictures = []
    for mask, of_mask in lines.items():
        path = f"figures/imputation_passes_{mask}.png"
        figure = plots.lines(of_mask, "passes", f"mean squared error, {mask}")
        save_figure(figure, folder / path)
        pictures.append(f"![Error of missing pixels over passes, {mask}]({path})")
    return pictures
