"""Li, Zhu and Zhang, Learning to generate with memory, ICML 2016: Table 1.

    python -m train mem_vae_ocr --workdir runs/mem_vae_ocr      expect -29.09 (966,000 steps)
    python -m train vae_ocr --workdir runs/vae_ocr              expect -30.09
    python -m train mem_vae_mnist --workdir runs/mem_vae_mnist  expect -84.41 (3,000 epochs)
    python -m train vae_mnist --workdir runs/vae_mnist          expect -85.67

then `python -m eval likelihood --workdir runs/...`. Two CPU cores take about half an hour for
`vae_ocr` and an hour for `mem_vae_ocr`; an epoch of `vae_mnist` takes them about 5 seconds.

MNIST is trained on 60,000 images, binarised anew each epoch; OCR letters on the training split
alone. The VAEs have neither slots nor the local reconstruction error, as in the paper.
"""

import dataclasses

from memjax.config import DataConfig, Experiment, OptimizerConfig, Reference, TrainConfig
from memjax.models.mem_vae import MemVAE
from memjax.objectives import Pathwise

PAPER = "Li, Zhu and Zhang 2016"
EPOCHS = 3000

MNIST = Experiment(
    name="mem_vae_mnist",
    reference=Reference(PAPER, "Table 1", value=-84.41, epochs=EPOCHS),
    model=MemVAE(),
    objective=Pathwise(),
    dataset="mnist",
    data=DataConfig(merge_validation=True),
)
OCR = Experiment(
    name="mem_vae_ocr",
    reference=Reference(PAPER, "Table 1", value=-29.09, epochs=EPOCHS, num_samples=100_000),
    model=MemVAE(hidden=(200, 200), latent=50),
    objective=Pathwise(),
    dataset="ocr_letters",
    data=DataConfig(binarisation="none"),
)
DIGITS = Experiment(
    name="mem_vae_digits",
    reference=Reference("none", "8x8 digits of scikit-learn: a quick run, no published figure"),
    model=MemVAE(hidden=(200, 200), latent=20),
    objective=Pathwise(),
    dataset="digits",
    optimizer=OptimizerConfig(constant_epochs=100, decay=0.98),
    train=TrainConfig(num_epochs=200, batch_size=50, save_every=20, log_every=10),
)


def _without_memory(experiment: Experiment) -> Experiment:
    model = dataclasses.replace(experiment.model, slots=(), local_reconstruction=())
    return dataclasses.replace(experiment, model=model)


def _row(with_memory: Experiment, name: str, num_samples: int, value: float | None) -> Experiment:
    base = with_memory if name.startswith("mem_") else _without_memory(with_memory)
    return dataclasses.replace(
        base,
        name=name,
        reference=dataclasses.replace(base.reference, value=value),
        objective=Pathwise(num_samples),
    )


def _table_1(
    with_memory: Experiment, dataset: str, published: dict[int, tuple[float, float]]
) -> list[Experiment]:
    """The rows of one column of Table 1: number of samples -> (without, with memory)."""
    rows = []
    for num_samples, (without, value) in published.items():
        kind = "vae" if num_samples == 1 else f"iwae{num_samples}"
        rows.append(_row(with_memory, f"{kind}_{dataset}", num_samples, without))
        rows.append(_row(with_memory, f"mem_{kind}_{dataset}", num_samples, value))
    return rows


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in [
        _row(DIGITS, "vae_digits", 1, None),
        DIGITS,
        *_table_1(MNIST, "mnist", {1: (-85.67, -84.41), 5: (-84.49, -83.26), 50: (-83.67, -82.84)}),
        *_table_1(OCR, "ocr", {1: (-30.09, -29.09), 5: (-28.69, -27.65), 50: (-27.60, -26.90)}),
    ]
}
