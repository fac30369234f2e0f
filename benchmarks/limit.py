"""The machine's limit: the matrix products and convolutions of a function, and nothing else.

They are found in what jax traces, with their shapes, types, dimension numbers and precision, and
computed again by XLA on random numbers. What a step takes above that is everything else in it. Of
what other libraries make of the same products it says nothing.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import partial_eval

from memjax.products import jaxpr_of, matmul_p
from memjax.types import Array

DOT, CONVOLUTION = "dot_general", "conv_general_dilated"
Operands = list[tuple[Array, ...]]


class Product(NamedTuple):
    """A matrix product or a convolution.

    Attributes:
        equation: of jax, with the shapes, types, dimension numbers and precision.
        times: how often the function computes it, one after the other.
    """

    equation: Any
    times: int = 1

    @property
    def flops(self) -> int:
        """Of all times: two for each number of the result and each number that it is a sum of.

        The zeros of padding and dilation count.
        """
        lhs, rhs = (operand.aval.shape for operand in self.equation.invars)
        if self.equation.primitive.name == DOT:
            (contracted, _), _ = self.equation.params["dimension_numbers"]
            terms = math.prod(lhs[axis] for axis in contracted)
        else:
            features = self.equation.params["dimension_numbers"].rhs_spec[0]
            terms = math.prod(rhs) // rhs[features]
        return 2 * self.times * math.prod(self.equation.outvars[0].aval.shape) * terms

    def operands(self, key: Array) -> tuple[Array, ...]:
        """Random numbers of the shapes and types of its operands."""
        shapes = [operand.aval for operand in self.equation.invars]
        keys = jax.random.split(key, len(shapes))
        drawn = [
            jax.random.normal(one, of.shape).astype(of.dtype)
            for one, of in zip(keys, shapes, strict=True)
        ]
        return tuple(drawn)

    def compute(self, operands: tuple[Array, ...]) -> Array:
        """The product of some operands."""
        return self.equation.primitive.bind(*operands, **self.equation.params)


def products(function: Callable[..., Any], *arguments: Any) -> list[Product]:
    """The products that a function computes.

    Those inside a scan are there as often as it is long. Of the branches of a cond, the one with
    the most is taken. What no result depends on is left out.

    Args:
        function: what jax can trace.
        arguments: arrays, or their shapes and types.

    Raises:
        ValueError: there are products in a while loop, whose number of steps no one knows.
    """
    traced = jax.make_jaxpr(function)(*arguments).jaxpr
    used, _ = partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))
    return list(_of_jaxpr(used, 1))


def _of_jaxpr(jaxpr: Any, times: int) -> Iterator[Product]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in (DOT, CONVOLUTION):
            yield Product(equation, times)
        elif name == "cond":
            branches = [list(_of_jaxpr(one.jaxpr, times)) for one in equation.params["branches"]]
            yield from max(branches, key=total_flops)
        else:
            steps = times * equation.params["length"] if name == "scan" else times
            found = [one for inner in _inner(equation) for one in _of_jaxpr(inner, steps)]
            if found and name == "while":
                raise ValueError("found products in a while loop, expected them in a scan")
            yield from found


def _inner(equation: Any) -> Iterator[Any]:
    """The jaxprs inside an equation."""
    if equation.primitive is matmul_p:
        yield jaxpr_of(equation)
    for leaf in jax.tree.leaves(list(equation.params.values())):
        if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"):
            yield getattr(leaf, "jaxpr", leaf)


def total_flops(found: Sequence[Product]) -> int:
    """Of all products."""
    return sum(one.flops for one in found)


class Limit:
    """The products of a function on operands of their own, which can be timed.

    Attributes:
        flops: of a step.
        groups: how often, and the products that a step computes so often.
        operands: of each product of each group.
        compiled: a function (operands, count) of so many steps.
    """

    def __init__(self, found: Sequence[Product]):
        """Compile, take a step."""
        self.flops = total_flops(found)
        grouped: dict[int, list[Product]] = defaultdict(list)
        for one in found:
            grouped[one.times].append(one)
        self.groups = list(grouped.items())
        # Were two products of equal shapes given equal operands, XLA would compute one of them.
        keys = iter(jax.random.split(jax.random.key(0), len(found)))
        self.operands = [[one.operands(next(keys)) for one in group] for _, group in self.groups]
        self.compiled = jax.jit(self._steps).lower(self.operands, jnp.int32(0)).compile()
        self.seconds(1)

    def seconds(self, count: int) -> float:
        """Take `count` steps; returns how long they took."""
        started = time.monotonic()
        jax.block_until_ready(self.compute(count))
        return time.monotonic() - started

    def compute(self, count: int) -> Array:
        """The sum over all products of `count` steps of one number of each."""
        return self.compiled(self.operands, jnp.int32(count))

    def _steps(self, operands: list[Operands], count: Array) -> Array:
        """A number that needs every product."""

        def step(_: Any, total: Array) -> Array:
            for (times, group), of_group in zip(self.groups, operands, strict=True):
                total = _repeated(group, of_group, times, total)
            return total

        return lax.fori_loop(0, count, step, jnp.float32(0))


def _repeated(group: Sequence[Product], operands: Operands, times: int, total: Array) -> Array:
    def once(_: Any, total: Array) -> Array:
        # Without the first barrier XLA would compute the products once, outside of the loop;
        # without the second, of each of them the one number that is asked for.
        given, total = lax.optimization_barrier((operands, total))
        made = [one.compute(of_one) for one, of_one in zip(group, given, strict=True)]
        made = lax.optimization_barrier(made)
        return total + sum(one[(0,) * one.ndim].astype(jnp.float32) for one in made)

    return once(0, total) if times == 1 else lax.fori_loop(0, times, once, total)
