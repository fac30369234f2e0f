"""What a traced function computes."""

from collections.abc import Iterator
from typing import Any

import jax


def equations(jaxpr: Any, primitive: str) -> Iterator[Any]:
    """Those of a primitive, in a jaxpr and in those inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner), primitive)
