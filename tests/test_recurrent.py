"""The LSTM cell, against flax's own and by its gates."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memjax.recurrent import lstm

UNITS, INPUTS, EXAMPLES = 5, 3, 4


def test_agrees_with_flax() -> None:
    cell = nn.LSTMCell(UNITS)
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.standard_normal((EXAMPLES, INPUTS)), jnp.float32)
    c, h = jnp.asarray(generator.standard_normal((2, EXAMPLES, UNITS)), jnp.float32)
    variables = cell.init(jax.random.key(0), (c, h), x)
    (c_after, h_after), _ = cell.apply(variables, (c, h), x)
    layers = variables["params"]
    # flax names the gates by letters: of the input, i, and of the state before, h.
    gates = [
        x @ layers[f"i{gate}"]["kernel"]
        + h @ layers[f"h{gate}"]["kernel"]
        + layers[f"h{gate}"]["bias"]
        for gate in "ifgo"
    ]
    found = lstm(jnp.concatenate(gates, axis=-1), c)
    np.testing.assert_allclose(found.cell, c_after, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.hidden, h_after, rtol=1e-6, atol=1e-6)


def test_gates_that_are_shut() -> None:
    before = jnp.asarray([[3.0, -2.0]])
    keep, shut = jnp.full((1, 2), 50.0), jnp.full((1, 2), -50.0)
    zeros = jnp.zeros((1, 2))
    kept = lstm(jnp.concatenate([shut, keep, zeros, keep], axis=-1), before)
    np.testing.assert_allclose(kept.cell, before, rtol=1e-6)
    np.testing.assert_allclose(kept.hidden, np.tanh(before), rtol=1e-6)
    forgotten = lstm(jnp.concatenate([keep, shut, keep, shut], axis=-1), before)
    np.testing.assert_allclose(forgotten.cell, np.ones((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(forgotten.hidden, zeros, atol=1e-6)
