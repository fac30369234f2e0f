"""The writers that stand beside published figures are those of the papers."""

import pytest

from memjax import configs
from memjax.models.writer import Writer

AVME = {
    "steps": 12,
    "latent": 100,
    "encoder_units": 400,
    "decoder_units": 400,
    "canvas_input": "error",
    "decoder_feedback": True,
    "output": "linear",
    "attention": "none",
    "slots": 0,
    "num_classes": 0,
    "initial_state": "zero",
    "likelihood": "bernoulli",
}
DRAW = AVME | {
    "steps": 64,
    "encoder_units": 256,
    "decoder_units": 256,
    "attention": "gaussian",
    "read_size": 2,
    "write_size": 5,
    "initial_state": "learned",
}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("avme_mnist", AVME),
        ("avme_mnist_lstm", AVME | {"output": "lstm"}),
        ("avme_mnist_conditional", AVME | {"num_classes": 10}),
        ("draw_mnist", DRAW),
        ("draw_mnist_no_attention", DRAW | {"attention": "none"}),
    ],
)
def test_a_writer_is_as_published(name: str, fields: dict[str, object]) -> None:
    experiment = configs.get(name)
    assert isinstance(experiment.model, Writer)
    assert {field: getattr(experiment.model, field) for field in fields} == fields
    assert experiment.train.batch_size == 100
    assert (experiment.objective.num_samples, experiment.objective.kl) == (1, "analytic")
    optimizer = experiment.optimizer
    assert (optimizer.learning_rate, optimizer.clip_global_norm, optimizer.clip_element) == (
        *(1e-3, 5.0, 0.0),
    )


def test_slots_are_all_that_memory_adds() -> None:
    plain, memory = configs.get("avme_digits").model, configs.get("mem_avme_digits").model
    assert isinstance(plain, Writer) and plain.clone(slots=20) == memory
