"""The table and the pictures of recurrent writers, from their records."""

from etils import epath

from memjax import plots
from memjax.configs import writer

from .evaluations import DASH, Evaluation, Line, epochs, evaluations, name, table, value
from .files import save_figure
from .records import Record

FIELD = "model.steps"  # T, where a run changed it
OF_STEPS = "avme_digits"  # the experiment that is run with several T
OF_TRAINING = "binarized_mnist"  # the data of the papers


def tables(found: list[Record]) -> list[str]:
    """Markdown of the table, if there are records for it."""
    head = ("experiment", "data", "T", "reconstruction", "KL", "ELBO", "NLL", "paper")
    rows = [_row(group) for group in _evaluations(found)]
    title = (
        "Recurrent writers, test split, nats. Reconstruction is -log p(x | z) at z from the "
        "posterior, the figure of Griesemer's Table 1; NLL is the importance-weighted estimate of "
        "-log p(x), of models with labels y of -log p(x | y):"
    )
    made = table(title, (*head, "images", "samples", "epochs"), rows)
    return [made] if made else []


def _evaluations(found: list[Record]) -> list[Evaluation]:
    groups = evaluations(found, "likelihood", "reconstruction_nll")
    of_writers = [
        group
        for group in groups
        if group["reconstruction_nll"].experiment in writer.EXPERIMENTS
        and group["reconstruction_nll"].split == "test"
    ]
    order = list(writer.EXPERIMENTS)
    return sorted(
        of_writers,
        key=lambda group: (order.index(group["elbo"].experiment), steps_of(group["elbo"])),
    )


def steps_of(one: Record) -> int:
    """T of the run."""
    return _field(one, "steps")


def _field(one: Record, field: str) -> int:
    """Of the model of the run, whether it was changed or not."""
    default = getattr(writer.EXPERIMENTS[one.experiment].model, field)
    return one.protocol.get("changed", {}).get(f"model.{field}", default)


def _row(group: Evaluation) -> tuple[str, ...]:
    one = group["log_likelihood"]
    experiment = writer.EXPERIMENTS[one.experiment]
    reference, paper = experiment.reference, DASH
    if reference.value is not None and "changed" not in one.protocol:
        paper = f"{reference.value:.2f} ({reference.metric})"
    return (
        name(one) + (", given y" if _field(one, "num_classes") else ""),
        one.dataset,
        str(steps_of(one)),
        value(group, "reconstruction_nll"),
        value(group, "kl_latent"),
        value(group, "elbo"),
        value(group, "log_likelihood", sign=-1),
        paper,
        f"{one.num_images:,}",
        f"{one.num_samples:,}",
        epochs(one),
    )


def draw(found: list[Record], folder: epath.Path) -> list[str]:
    """Draw NLL against T if several were trained, and bounds in training; in Markdown."""
    return [*_draw_training(found, folder), *_draw_steps(found, folder)]


def _draw_training(found: list[Record], folder: epath.Path) -> list[str]:
    """Bounds over epochs on MNIST, of the training and of the validation split."""
    lines: dict[str, Line] = {}
    for one in sorted(found, key=lambda one: one.epochs or 0):  # the longest run is drawn
        if one.experiment not in writer.EXPERIMENTS or one.dataset != OF_TRAINING:
            continue
        if one.task == "training" and one.metric == "iwae_bound":
            title = f"{name(one)}, {one.split}, K = {one.num_samples}".replace("`", "")
            lines[title] = (one.x or [], one.values or [])
    if not lines:
        return []
    path = "figures/writer_training.png"
    save_figure(plots.lines(lines, "epoch", "bound, nats"), folder / path)
    return [f"![Bound over epochs of recurrent writers on MNIST]({path})"]


def _draw_steps(found: list[Record], folder: epath.Path) -> list[str]:
    lines: dict[str, Line] = {}
    for group in _evaluations(found):
        changed = group["elbo"].protocol.get("changed", {})
        if group["elbo"].experiment != OF_STEPS or changed.keys() - {FIELD}:
            continue
        for title, metric in (("NLL", "log_likelihood"), ("-ELBO", "elbo")):
            x, y = lines.setdefault(title, ([], []))
            x.append(steps_of(group[metric]))
            y.append(-(group[metric].value or 0.0))
    if not any(len(x) > 1 for x, _ in lines.values()):
        return []
    path = "figures/writer_steps.png"
    figure = plots.lines(lines, "steps of the writer, T", "nats, digits", "log")
    save_figure(figure, folder / path)
    return [f"![NLL of a recurrent writer by its number of steps]({path})"]
