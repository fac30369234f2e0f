"""Fields without effect: the models name exactly those, and a run that changes them is refused."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import train
from memjax import configs, sampling
from memjax.errors import InputError
from memjax.models.mem_vae import MemVAE
from memjax.models.vma import VMA
from memjax.models.writer import Writer
from memjax.types import Batch

SHAPE = (8, 8, 1)
MEM_VAE = {"hidden": (4, 3), "latent": 2}
VMA_SIZES = {"hidden": (6, 5), "latent": 3, "matching": 4, "memory_size": 3, "memory_units": 5}
WRITER = {"steps": 2, "latent": 3, "encoder_units": 4, "decoder_units": 4}

MODELS: list[tuple[type, dict[str, Any]]] = [
    *(
        (MemVAE, {**MEM_VAE, "slots": slots, "local_reconstruction": local, "batch_norm": norm})
        for slots, local, norm in [
            ((3, 2), (0.1, 0.1), True),
            ((3, 2), (), False),
            ((), (0.1, 0.1), False),
            ((), (), True),
        ]
    ),
    *(
        (VMA, {**VMA_SIZES, "maps": (2, 2), "addressing": a, "memory": memory, "kind": kind})
        for a, memory, kind in itertools.product(
            ["hard", "soft", "none"], ["episode", "learned"], ["dense", "convolutional"]
        )
    ),
    *((VMA, {**VMA_SIZES, "memory": "learned", "embeddings": e}) for e in ("separate", "learned")),
    (VMA, {**VMA_SIZES, "memory": "learned", "block_size": 1}),
    *(
        (Writer, {**WRITER, "attention": attention, "output": "linear", "slots": slots})
        for attention, slots in itertools.product(["none", "gaussian"], [0, 3])
    ),
]
ANOTHER = {
    "rectify_composition": False,
    "disabled": (0,),
    "maps": (3, 2),
    "slots": None,
    "local_reconstruction": None,
}


def program(model: Any) -> str | None:
    """What initialisation and the Terms of a training batch compute; None for a model in error."""
    images, index = jnp.zeros((2, *SHAPE)), jnp.arange(2)
    batch = Batch(images, index, labels=index, context=jnp.zeros((3, *SHAPE)))
    keys = sampling.sample_keys(jax.random.key(0), index, jnp.arange(2))

    def run() -> Any:
        variables = sampling.initialise(model, jax.random.key(0), batch)
        return sampling.sample_terms(model, variables, batch, keys, True)

    try:
        return str(jax.make_jaxpr(run)())
    except InputError:
        return None


def another(model: Any, field: dataclasses.Field) -> Any:
    """A value of the field that the model does not have."""
    value = getattr(model, field.name)
    if field.name in ANOTHER:
        return ANOTHER[field.name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value / 2
    options = {
        "attention": {MemVAE: ("sigmoid", "softmax"), Writer: ("none", "gaussian")},
        "slot_attention": ("sigmoid", "softmax"),
        "composition": ("elementwise_mlp", "sum"),
        "local_reduction": ("mean", "sum"),
        "local_noise": ("independent", "shared"),
        "likelihood": ("bernoulli", "gaussian"),
        "memory": ("learned", "episode"),
        "addressing": ("hard", "soft"),
        "similarity": ("inner", "cosine"),
        "prior": ("flat", "learned_query"),
        "blended": ("features", "pixels"),
        "kind": ("dense", "convolutional"),
        "pyramids": ("shared", "separate"),
        "embeddings": ("separate", "shared"),
        "canvas_input": ("error", "canvas"),
        "output": ("linear", "lstm"),
        "initial_state": ("zero", "learned"),
    }[field.name]
    pair = options[type(model)] if isinstance(options, dict) else options
    return next(option for option in pair if option != value)


def fields(model: Any) -> list[dataclasses.Field]:
    of_the_program = ("image_shape", "precision", "batch_axes", "parent", "name")
    no_model_is_without = ("hidden", "latent", "steps", "encoder_units", "decoder_units")
    left_out = (*of_the_program, *no_model_is_without)
    return [field for field in dataclasses.fields(model) if field.name not in left_out]


@pytest.mark.parametrize(
    ("kind", "given"), MODELS, ids=lambda value: getattr(value, "__name__", None)
)
def test_idle_fields_are_those_that_change_nothing(kind: type, given: dict[str, Any]) -> None:
    model = kind(image_shape=SHAPE, batch_axes=("samples",), **given)
    same = program(model)
    assert same is not None
    compared = 0
    for field in fields(model):
        value = another(model, field)
        if value is None:
            continue
        other = program(dataclasses.replace(model, **{field.name: value}))
        if other is not None:
            compared += 1
            assert (other == same) == (field.name in model.idle_fields), field.name
    assert compared >= len(fields(model)) - 4
    assert set(model.idle_fields) <= {field.name for field in fields(model)}


@pytest.mark.parametrize(
    ("experiment", "changed", "message"),
    [
        ("vma_few_shot", {"model": {"memory_size": 16}}, "model.memory_size: found 16"),
        ("soft_few_shot", {"model": {"prior": "flat"}}, "model.addressing hard"),
        ("vae_few_shot", {"model": {"similarity": "cosine"}}, "model.similarity: found cosine"),
        ("vae_digits", {"model": {"slot_scale": 0.1}}, "without model.slots; expected 0.01"),
        ("avme_digits", {"model": {"read_size": 3}}, "model.read_size: found 3"),
        ("mem_vae_digits", {"data": {"split_seed": 3}}, "data.split_seed: found 3"),
        ("vma_recall", {"optimizer": {"undecayed": ("memory",)}}, "optimizer.weight_decay"),
    ],
)
def test_a_change_without_effect_is_refused(
    tmp_path: Path, experiment: str, changed: dict[str, dict[str, Any]], message: str
) -> None:
    base = configs.get(experiment)
    parts = {
        part: dataclasses.replace(getattr(base, part), **values) for part, values in changed.items()
    }
    with pytest.raises(InputError, match=message):
        train.run(dataclasses.replace(base, **parts), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_field_of_an_experiment_may_wait_for_an_effect(tmp_path: Path) -> None:
    # Its maps have none any more, and they are not what was changed.
    base = configs.get("vma_learned_omniglot")
    dense = dataclasses.replace(base, model=dataclasses.replace(base.model, kind="dense"))
    assert "maps" in dense.model.idle_fields
    train.checks.check_idle(dense, str(tmp_path))
    # Nor is a model of another kind, or a run that was begun before.
    other = dataclasses.replace(base, model=MemVAE(slot_scale=0.3, slots=()))
    train.checks.check_idle(other, str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    changed = dataclasses.replace(base, model=dataclasses.replace(base.model, blended="pixels"))
    train.checks.check_idle(changed, str(tmp_path))
    with pytest.raises(InputError, match=r"model\.blended"):
        train.checks.check_idle(changed, str(tmp_path / "new"))
