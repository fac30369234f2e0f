"""Bornschein, Mnih, Zoran and Rezende, Variational memory addressing, NIPS 2017.

    python -m train vma_recall --workdir runs/vma_recall        expect an NLL of ln 256 = 5.55

The paper gives Adam, a learning rate of 1e-4 or 3e-4, batches of 32 and K = 4.
"""

import math

from memjax.config import DataConfig, Experiment, OptimizerConfig, Reference, TrainConfig
from memjax.data import Recall
from memjax.models.vma import VMA
from memjax.objectives import Vimco

PAPER = "Bornschein et al. 2017"
ADAM = OptimizerConfig(
    learning_rate=3e-4,
    epsilon=1e-8,
    constant_epochs=1,
    decay=1.0,
    clip_global_norm=0.0,
    clip_element=0.0,
)

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in [
        Experiment(
            name="vma_recall",
            reference=Reference(PAPER, "Figure 2A", metric="nll", value=math.log(256)),
            model=VMA(),
            objective=Vimco(),
            sampler=Recall(256),
            dataset="binarized_mnist",
            data=DataConfig(binarisation="none"),
            optimizer=ADAM,
            train=TrainConfig(num_epochs=500, batch_size=32),
        ),
    ]
}
