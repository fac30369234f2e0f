"""Bornschein, Mnih, Zoran and Rezende, Variational memory addressing, NIPS 2017.

    python -m train vma_recall --workdir runs/vma_recall        expect an NLL of ln 256 = 5.55

The paper gives Adam, a learning rate of 1e-4 or 3e-4, batches of 32 and K = 4. It has separate
networks embed images and entries, says that shared ones do as well, and sees recall begin after
100,000 steps. With shared ones it begins after 2,000, so those are the default here;
`--model.embeddings separate` is the other way.
"""

import dataclasses
import math

from memjax.config import DataConfig, Experiment, OptimizerConfig, Reference, TrainConfig
from memjax.data import Episodes, Epochs, Recall
from memjax.models.vma import VMA
from memjax.objectives import Pathwise, Vimco

PAPER = "Bornschein et al. 2017"
ADAM = OptimizerConfig(
    learning_rate=3e-4,
    epsilon=1e-8,
    constant_epochs=1,
    decay=1.0,
    clip_global_norm=0.0,
    clip_element=0.0,
)

RECALL = Experiment(
    name="vma_recall",
    reference=Reference(PAPER, "Figure 2A", metric="nll", value=math.log(256)),
    model=VMA(embeddings="shared"),
    objective=Vimco(),
    sampler=Recall(256),
    dataset="binarized_mnist",
    data=DataConfig(binarisation="none"),
    optimizer=ADAM,
    train=TrainConfig(num_epochs=500, batch_size=32),
)
LEARNED_MNIST = dataclasses.replace(
    RECALL,
    name="vma_learned_mnist",
    reference=Reference(PAPER, "Section 4.1", metric="kl_address", value=2.5),
    model=VMA(memory="learned"),
    sampler=Epochs(),
)
FEW_SHOT = dataclasses.replace(
    RECALL,
    name="vma_few_shot",
    reference=Reference(PAPER, "Section 4.2", metric="nll", value=75.1),
    model=VMA(kind="convolutional", hidden=(256,), latent=64),
    sampler=Episodes(ways=8, shots=4),
    dataset="omniglot26",
    train=TrainConfig(num_epochs=100, batch_size=32),
)
SOFT_FEW_SHOT = dataclasses.replace(
    FEW_SHOT,
    name="soft_few_shot",
    reference=Reference(PAPER, "Section 4.2", metric="nll", value=73.4),
    model=dataclasses.replace(FEW_SHOT.model, addressing="soft"),
    objective=Pathwise(),
)
VAE_FEW_SHOT = dataclasses.replace(
    FEW_SHOT,
    name="vae_few_shot",
    reference=Reference(PAPER, "Section 4.2", metric="nll", value=90.8),
    model=dataclasses.replace(FEW_SHOT.model, addressing="none"),
    objective=Pathwise(),
)

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in [RECALL, LEARNED_MNIST, FEW_SHOT, SOFT_FEW_SHOT, VAE_FEW_SHOT]
}
