"""The tables and the picture of benchmarks, from their records: seconds and memory of a step."""

from etils import epath

from memjax import plots

from .evaluations import DASH, commit, table
from .files import save_figure
from .records import Record

TIMES = {
    "epoch_seconds": "an epoch of training",
    "start_seconds": "start of a process to the checkpoint after its first step",
    "start_seconds_warm": "the same with a filled compilation cache",
    "step_seconds": "a step of training",
}
RATIO = "ratio"  # of python -m benchmarks
RIVALS = ("torch_eager", "torch_compile", "pythae", "limit", "ours_float32", "limit_float32")
OVER_ENTRIES = "step_seconds_by_memory"  # curves of benchmarks.addressing
OVER_SEEDS = "step_seconds_by_seeds"  # of benchmarks.training
OVER_STEPS = "gradient_gib_by_steps"  # curves of benchmarks.writing
BY_KIND = "seconds_by_kind"  # of benchmarks.profiling
KINDS = ("clock", "products alone", "products", "element-wise", "sums", "copies", "random")
SHARED = ("collective_bytes", "largest_difference_nats")  # of benchmarks.sharing
Curves = dict[str, dict[float, float]]


def tables(found: list[Record]) -> list[str]:
    """Markdown of every table that there are records for."""
    over_entries = (_over_entries(found), *_crossings(found))
    over_others = (_over_seeds(found), *over_entries, _over_steps(found), _over_devices(found))
    made = (_ratios(found), _by_kind(found), _times(found), *over_others)
    return [table for table in made if table]


def draw(found: list[Record], folder: epath.Path) -> list[str]:
    """Draw seconds of a step over entries in memory; returns the picture in Markdown."""
    curves = _curves_over_entries(found)
    if not curves:
        return []
    lines = {name: (list(of), list(of.values())) for name, of in curves.items()}
    picture = "figures/addressing_speed.png"
    figure = plots.curves(lines, "entries in memory", "seconds of a step", logarithmic=True)
    save_figure(figure, folder / picture)
    return [f"![Seconds of a step over the number of entries in memory]({picture})"]


def _ratios(found: list[Record]) -> str:
    """What has rivals beside them, each device and precision apart."""
    head = ("job", "rival", "ours", "rival's", "ratio", "rounds", "device", "precision", "commit")
    rows = [
        (
            _job(one),
            str(one.protocol["rival"]),
            _seconds(one.protocol["ours_seconds"]),
            _seconds(one.protocol["rival_seconds"]),
            f"{one.value or 0.0:.2f}",
            _rounds(one),
            _machine(one),
            str(one.protocol["precision"]),
            commit(one.commit, one.dirty),
        )
        for one in _newest_ratios(found)
    ]
    title = (
        "Seconds of a training step, of an image of an evaluation of 5,000 samples or of 1,000 "
        "addresses, and of rivals, medians of alternating rounds; the ratio is that of the "
        "medians, the rival's by ours, beside the least and the most of a round, and `limit` our "
        "matrix products alone:"
    )
    return table(title, head, rows)


def _rounds(one: Record) -> str:
    values = one.values or [0.0]
    return f"{len(values)}: {min(values):.2f} to {max(values):.2f}"


def _by_kind(found: list[Record]) -> str:
    """Where the time of a step goes, a row for each job and precision."""
    jobs: dict[tuple[str, ...], dict[str, Record]] = {}
    for one in found:
        if one.metric == BY_KIND:
            key = (_job(one), str(one.protocol["precision"]), _machine(one))
            jobs.setdefault(key, {})[str(one.protocol["kind"])] = one
    rows = [
        (
            *names[:2],
            *(_milliseconds(kinds[kind]) if kind in kinds else DASH for kind in KINDS),
            names[2],
            commit(kinds["clock"].commit, kinds["clock"].dirty),
        )
        for names, kinds in jobs.items()
    ]
    title = (
        "Where the milliseconds of a step go: on the clock, with its products alone, and by kind "
        "of operation, of which several may run at a time:"
    )
    return table(title, ("job", "precision", *KINDS, "device", "commit"), rows)


def _milliseconds(one: Record) -> str:
    value = 1000 * (one.value or 0.0)
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def short(found: list[Record]) -> list[str]:
    """The same with a row for each job, of ratios alone."""
    rows: dict[tuple[str, ...], dict[str, Record]] = {}
    for one in _newest_ratios(found):
        names = (_job(one), str(one.protocol["precision"]))
        row = rows.setdefault((*names, _machine(one)), {})
        row[str(one.protocol["rival"])] = one
    rivals = sorted({rival for row in rows.values() for rival in row}, key=_order)
    made = [
        (
            *names[:2],
            _span([one.protocol["ours_seconds"] for one in row.values()]),
            *(f"{row[rival].value or 0.0:.2f}" if rival in row else DASH for rival in rivals),
            names[2],
        )
        for names, row in rows.items()
    ]
    title = (
        "Seconds of a training step, of an image of an evaluation of 5,000 samples or of 1,000 "
        "addresses, and those of rivals as multiples, above 1 where ours are fewer, each by what "
        "ours took in turns with it; `ours` is the least and the most of these. `limit` is our "
        "matrix products alone, with nothing around them:"
    )
    head = ("job", "precision", "ours", *(f"`{one}`" for one in rivals), "device")
    shown = table(title, head, made)
    return [shown] if shown else []


def _job(one: Record) -> str:
    extra = one.protocol.get("extra_mib")
    beside = "" if extra is None else f", {extra:.0f} MiB beside slots and queries"
    return f"`{one.protocol['job']}`{_changed(one)}{beside}"


def _machine(one: Record) -> str:
    """Of a time: what it was taken on."""
    pages = ", huge pages" if one.protocol.get("huge_pages") else ""
    return f"{one.protocol.get('device', one.hardware)}{pages}"


def _newest_ratios(found: list[Record]) -> list[Record]:
    names = ("job", "rival", "device", "precision", "changed")
    # The newest of each, whatever its number of rounds.
    newest = {
        tuple(str(one.protocol.get(name)) for name in names): one
        for one in found
        if one.metric == RATIO
    }
    return _in_order(list(newest.values()))


def _in_order(ratios: list[Record]) -> list[Record]:
    """By device, job, precision and rival, so that what was timed anew stays where it was."""
    devices = list(dict.fromkeys(map(_machine, ratios)))
    jobs = list(dict.fromkeys(one.protocol["job"] for one in ratios))

    def place(one: Record) -> tuple[object, ...]:
        job, rival = one.protocol["job"], str(one.protocol["rival"])
        of_job = jobs.index(job), one.protocol["precision"] != "float32"
        return devices.index(_machine(one)), *of_job, _order(rival)

    return sorted(ratios, key=place)


def _order(rival: str) -> tuple[int, str]:
    return (RIVALS.index(rival) if rival in RIVALS else len(RIVALS), rival)


def _times(found: list[Record]) -> str:
    head = ("experiment", "what", "seconds", "rounds", "hardware", "commit")
    # The newest of each, whatever its number of rounds.
    newest = {
        (one.experiment, one.metric, str(one.protocol.get("changed"))): one
        for one in found
        if one.task == "benchmark"
        and one.metric not in (RATIO, BY_KIND, *SHARED)
        and one.value is not None
    }
    rows = [
        (
            f"`{one.experiment}`",
            TIMES.get(one.metric, one.metric) + _changed(one),
            _seconds(one.value or 0.0),
            str(one.protocol.get("rounds", DASH)),
            _machine(one),
            commit(one.commit, one.dirty),
        )
        for one in newest.values()
    ]
    return table("Times, medians of alternating rounds:", head, rows)


def _changed(one: Record) -> str:
    """The fields that were changed, as the command line takes them."""
    changed = one.protocol.get("changed", {})
    values = {name: v if isinstance(v, list | tuple) else [v] for name, v in changed.items()}
    return "".join(f", `--{name} {' '.join(map(str, v))}`" for name, v in values.items())


def _span(values: list[float]) -> str:
    least, most = _seconds(min(values)), _seconds(max(values))
    return least if least == most else f"{least} to {most}"


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _curves_over_entries(found: list[Record]) -> Curves:
    # The newest of each.
    return {one.protocol["curve"]: _points(one) for one in found if one.metric == OVER_ENTRIES}


def _points(one: Record) -> dict[float, float]:
    return dict(zip(one.x or [], one.values or [], strict=True))


def _over_entries(found: list[Record]) -> str:
    curves = _curves_over_entries(found)
    sizes = sorted({size for of_curve in curves.values() for size in of_curve})
    rows = [
        (
            f"{size:,.0f}",
            *(_seconds(one[size]) if size in one else DASH for one in curves.values()),
        )
        for size in sizes
    ]
    title = (
        "Seconds of a training step over the number of entries in memory, hard addressing with "
        "K = 4 and soft attention with K = 1:"
    )
    return table(title, ("entries", *curves), rows)


def _crossings(found: list[Record]) -> list[str]:
    curves = _curves_over_entries(found)
    return [
        _crossing(hard, soft, curves)
        for soft in curves
        for hard in curves
        if ", soft" in soft and hard.startswith(soft.partition(",")[0] + ", hard")
    ]


def _crossing(hard: str, soft: str, seconds: Curves) -> str:
    """From which size on this hard addressing is faster than this soft attention."""
    common = seconds[hard].keys() & seconds[soft].keys()
    if not common:
        return ""
    slower = [size for size in common if seconds[soft][size] <= seconds[hard][size]]
    later = [size for size in common if size > max(slower, default=0.0)]
    if not later:
        return f"{hard} against {soft}: not faster at the largest size."
    return f"{hard} against {soft}: faster from {min(later):,.0f} entries on."


def _over_seeds(found: list[Record]) -> str:
    """What seeds trained together take, beside as many runs of one."""
    # The newest of each.
    newest = {one.experiment: one for one in found if one.metric == OVER_SEEDS}
    rows = []
    for one in newest.values():
        seconds = _points(one)
        if 1.0 not in seconds:
            continue
        rows += [
            (
                f"`{one.experiment}`",
                f"{seeds:.0f}",
                _seconds(together),
                _seconds(seeds * seconds[1.0]),
                f"{seeds * seconds[1.0] / together:.2f}",
                commit(one.commit, one.dirty),
            )
            for seeds, together in seconds.items()
            if seeds > 1
        ]
    title = "Seconds of a step of several seeds, trained together and in runs of their own:"
    return table(title, ("experiment", "seeds", "together", "apart", "ratio", "commit"), rows)


def _over_steps(found: list[Record]) -> str:
    """What rematerialisation saves of a gradient's memory."""
    # The newest of each.
    curves = {
        bool(one.protocol["changed"].get("model.rematerialise")): _points(one)
        for one in found
        if one.metric == OVER_STEPS
    }
    whole, again = curves.get(False, {}), curves.get(True, {})
    rows = [
        (f"{steps:.0f}", f"{whole[steps]:.2f}", f"{again[steps]:.2f}", _ratio(whole, again, steps))
        for steps in sorted(whole.keys() & again.keys())
    ]
    title = "GiB that the gradient of `avme_mnist` at K = 5 holds, over T:"
    return table(title, ("T", "kept", "`--model.rematerialise True`", "ratio"), rows)


def _over_devices(found: list[Record]) -> str:
    """What devices that share an evaluation tell each other."""
    # The newest of each.
    newest: dict[tuple[int, int], dict[str, Record]] = {}
    for one in found:
        if one.metric in SHARED:
            layout = (one.protocol["image_devices"], one.protocol["sample_devices"])
            newest.setdefault(layout, {})[one.metric] = one
    rows = []
    for (images, samples), measured in sorted(newest.items(), key=lambda of: of[0][::-1]):
        told, apart = (measured[metric] for metric in SHARED)
        size = f"{told.protocol['num_samples']:,} x {told.protocol['batch_size']}"
        cells = (f"{(told.value or 0.0) / 1024:,.0f}", f"{apart.value or 0.0:.1g}")
        rows.append((str(images), str(samples), size, *cells, commit(told.commit, told.dirty)))
    title = (
        "Devices that share a batch of an evaluation of `mem_vae_mnist`: KiB that each is told by "
        "the others, its own share with it, and the largest difference of log p(x) and its bounds "
        "from those of one device:"
    )
    head = ("devices for images", "for samples", "samples x images", "KiB", "nats", "commit")
    return table(title, head, rows)


def _ratio(whole: dict[float, float], again: dict[float, float], steps: float) -> str:
    return f"{whole[steps] / again[steps]:.1f}"
