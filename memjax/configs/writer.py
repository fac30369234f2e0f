"""Griesemer, Adaptive variational memory encoding (AVME), 2017, with DRAW beside it.

    python -m train avme_mnist --workdir runs/avme_mnist           the paper: reconstruction 80.50
    python -m train avme_mnist_conditional --workdir runs/classes
    python -m train draw_mnist --workdir runs/draw_mnist           the paper: an NLL of up to 80.97
    python -m train draw_mnist_no_attention --workdir runs/draw    the paper: an NLL of up to 87.40
    python -m train avme_digits --workdir runs/avme_digits         two minutes on two CPU cores

then `python -m eval likelihood` and `python -m eval canvas`. T is `--model.steps`.

The paper's 80.50 is -log p(x | z) at z from the posterior, without the KL (equation 31): its name
here is `reconstruction_nll`, and it is no bound on -log p(x). DRAW's figures are such bounds.

The paper gives T = 12, 400 hidden and 100 latent units and batches of 100; neither it nor DRAW
gives the learning rate. Adam at 1e-3 with gradients of a norm of at most 5 is ours. Which output
layer gave 80.50 is not known: the paper's decoder is 100 -> 400 -> 784, of which its code makes two
LSTMs (`avme_mnist_lstm`). `avme_mnist` has a linear layer in place of the second, with about half
the products.
"""

import dataclasses
from typing import Any

from memjax.config import DataConfig, Experiment, OptimizerConfig, Reference, TrainConfig
from memjax.data import Epochs
from memjax.models.writer import Writer
from memjax.objectives import Pathwise

AVME = "Griesemer 2017"
DRAW = "Gregor et al. 2015"

MNIST = Experiment(
    name="avme_mnist",
    reference=Reference(AVME, "Table 1", metric="reconstruction_nll", value=80.50),
    model=Writer(output="linear"),
    objective=Pathwise(kl="analytic"),
    sampler=Epochs(),
    dataset="binarized_mnist",
    data=DataConfig(binarisation="none"),
    optimizer=OptimizerConfig(
        epsilon=1e-8, constant_epochs=1, decay=1.0, clip_global_norm=5.0, clip_element=0.0
    ),
    train=TrainConfig(num_epochs=200, save_every=5),
)
WITH_ATTENTION = dataclasses.replace(
    MNIST,
    name="draw_mnist",
    reference=Reference(DRAW, "Table 2", metric="elbo", value=-80.97),
    model=Writer(
        steps=64,
        encoder_units=256,
        decoder_units=256,
        output="linear",
        attention="gaussian",
        read_size=2,
        write_size=5,
        initial_state="learned",
    ),
)
DIGITS = dataclasses.replace(
    MNIST,
    name="avme_digits",
    reference=Reference("-", "8x8 digits of scikit-learn"),
    model=Writer(latent=10, encoder_units=100, decoder_units=100, output="linear"),
    dataset="digits",
    data=DataConfig(),
    train=TrainConfig(num_epochs=200, batch_size=50, save_every=20, log_every=10),
)


def _variant(base: Experiment, name: str, reference: Reference, **fields: Any) -> Experiment:
    """The experiment with some fields of its model changed."""
    model = dataclasses.replace(base.model, **fields)
    return dataclasses.replace(base, name=name, reference=reference, model=model)


CONDITIONAL = _variant(MNIST, "avme_mnist_conditional", Reference(AVME, "Figure 9"), num_classes=10)
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in [
        MNIST,
        _variant(MNIST, "avme_mnist_lstm", MNIST.reference, output="lstm"),
        # The fixed binarisation has no labels: MNIST's own, binarised once.
        dataclasses.replace(CONDITIONAL, dataset="mnist", data=DataConfig(binarisation="fixed")),
        WITH_ATTENTION,
        _variant(
            WITH_ATTENTION,
            "draw_mnist_no_attention",
            dataclasses.replace(WITH_ATTENTION.reference, value=-87.40),
            attention="none",
        ),
        DIGITS,
        _variant(DIGITS, "avme_digits_conditional", DIGITS.reference, num_classes=10),
        _variant(DIGITS, "mem_avme_digits", DIGITS.reference, slots=20),
    ]
}
