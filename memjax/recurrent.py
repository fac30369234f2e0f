"""The long short-term memory cell, from the pre-activations of its gates on."""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from memjax.types import Array


@flax.struct.dataclass
class LSTMState:
    """Hidden state h and cell state c, each `[B, U]`."""

    hidden: Array
    cell: Array


def lstm(gates: Array, cell: Array) -> LSTMState:
    """The next state. The products are the caller's, who knows which inputs stay the same.

    Args:
        gates: `[B, 4 U]` pre-activations of the input, forget, candidate and output gates.
        cell: `[B, U]`, the cell state before.

    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 1999; Griesemer
    2017, equations 6 to 9.
    """
    entering, kept, candidate, shown = jnp.split(gates, 4, axis=-1)
    cell = nn.sigmoid(kept) * cell + nn.sigmoid(entering) * jnp.tanh(candidate)
    return LSTMState(nn.sigmoid(shown) * jnp.tanh(cell), cell)
