"""Data sets in memory, and batches of them as functions of (seed, epoch, example).

dataset = load("mnist", "path/to/data")         # bytes, divided
order = epoch_permutation(seed, epoch, 50_000)  # outside the scan
images = prepare_images(...)                    # inside it: floats, binarised
episode = draw_episode(key, class_table(labels), ways=8, shots=4, targets_per_class=4)
"""

from memjax.data.arrays import Dataset, Split
from memjax.data.batches import Binarisation, binarise, epoch_permutation, prepare_images
from memjax.data.drawings import strokes
from memjax.data.episodes import (
    ClassTable,
    Episode,
    check_episode,
    check_set,
    class_table,
    draw_episode,
    draw_set,
)
from memjax.data.loading import NAMES, load
from memjax.data.samplers import Drawn, Episodes, Epochs, Recall, Sampler, WholeEpisodes, gather
from memjax.data.splits import SplitOrder

__all__ = [
    "NAMES",
    "Binarisation",
    "ClassTable",
    "Dataset",
    "Drawn",
    "Episode",
    "Episodes",
    "Epochs",
    "Recall",
    "Sampler",
    "Split",
    "SplitOrder",
    "WholeEpisodes",
    "binarise",
    "check_episode",
    "check_set",
    "class_table",
    "draw_episode",
    "draw_set",
    "epoch_permutation",
    "gather",
    "load",
    "prepare_images",
    "strokes",
]
