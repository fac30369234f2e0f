"""The experiments: one file per paper, an experiment is an entry in it."""

import difflib

from memjax.config import Experiment
from memjax.configs import gmn, mem_vae, vma, writer
from memjax.errors import InputError

EXPERIMENTS: dict[str, Experiment] = {
    **mem_vae.EXPERIMENTS,
    **vma.EXPERIMENTS,
    **gmn.EXPERIMENTS,
    **writer.EXPERIMENTS,
}


def get(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    near = difflib.get_close_matches(name, EXPERIMENTS, n=3, cutoff=0.4) or sorted(EXPERIMENTS)
    raise InputError(f"experiment {name!r}: unknown, expected one of {', '.join(near)}")
