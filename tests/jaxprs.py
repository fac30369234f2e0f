"""What a traced function computes."""

from collections.abc import Iterator
from typing import Any

import jax

from memjax import products


def equations(jaxpr: Any, primitive: str) -> Iterator[Any]:
    """Those of a primitive, in a jaxpr and in those inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == primitive:
            yield equation
        if equation.primitive is products.matmul_p:
            yield from equations(products.jaxpr_of(equation), primitive)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner), primitive)
