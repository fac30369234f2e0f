"""Bartunov and Vetrov, Fast adaptation in generative models, 2016, arXiv 1612.02192.

    python -m train gmn_table1 --workdir runs/gmn_table1

As their code trains: 20 episodes a step of 10 images, drawn with replacement from at most two of
the 964 classes. An epoch is 121 steps, 24,345 / 200. Where the code divides the bound by the
episodes and not by their images, Adam makes no difference of it. Their images have ink 0 on 1,
ours 1 on 0, which a likelihood does not see but a network without biases does.

The paper's Table 1 has a value for each number of classes and of images before the target, so the
reference has none.
"""

from memjax.config import DataConfig, Experiment, OptimizerConfig, Reference, TrainConfig
from memjax.data import WholeEpisodes
from memjax.models.gmn import GMN
from memjax.objectives import Pathwise

TABLE1 = Experiment(
    name="gmn_table1",
    reference=Reference(
        "Bartunov and Vetrov 2016", "Table 1", metric="nll", epochs=750, num_samples=1000
    ),
    model=GMN(),
    objective=Pathwise(),
    sampler=WholeEpisodes(ways=2, length=10, steps=121),
    dataset="omniglot28",
    data=DataConfig(binarisation="none"),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        later_rates=(3e-4, 1e-4),
        b2=0.99,
        epsilon=1e-8,
        constant_epochs=250,
        decay=1.0,
        clip_global_norm=0.0,
        clip_element=0.0,
    ),
    train=TrainConfig(num_epochs=750, batch_size=200),
)

EXPERIMENTS = {TABLE1.name: TABLE1}
