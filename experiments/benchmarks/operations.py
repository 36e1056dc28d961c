"""Counts the floating point operations of a function from its jaxpr, before compilation.

Counted are the multiplications and additions of matrix products and convolutions, two for each product of two numbers;
everything else is a few percent. A convolution, its transpose and its weight gradient are one trilinear form
(gan/networks/conv/primitives.py), so each is 2 B H' W' kh kw C O whatever its lowering: taps on the padding are
counted, zeros that a lowering inserts are not. An expression that occurs twice is counted once, and an unused one not
at all, since a compiler removes both.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
         "remat2": "jaxpr", "checkpoint": "jaxpr"}  # fmt: skip
"""Primitives that only call an inner jaxpr, and the parameter that holds it."""


def count(function: Callable, *arguments: Any) -> int:
    """The floating point operations of `function(*arguments)`; arguments are arrays or their shapes."""
    return by_type(function, *arguments).total()


def by_type(function: Callable, *arguments: Any) -> Counter[str]:
    """The same by the dtype of the multiplied numbers, such as float32."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Jaxpr) -> Counter[str]:
    operations, known = [], {}
    inputs = [("input", index) for index in range(len(jaxpr.invars))]
    needed = set(_walk(jaxpr, inputs, operations, known))
    total = Counter()
    for reads, writes, cost in reversed(operations):
        if needed.intersection(writes):
            needed.update(reads)
            total += cost
    return total


def _walk(jaxpr: Jaxpr, inputs: list[Hashable], operations: list, known: dict) -> list[Hashable]:
    """Appends (inputs, outputs, cost) of each new operation. Returns the names of the jaxpr's outputs.

    A value is named by the first operation that computes it, so equal values have the same name.
    """
    names = dict(zip(jaxpr.invars, inputs, strict=True))
    names |= {constant: ("constant", id(constant)) for constant in jaxpr.constvars}

    def named(atom: Any) -> Hashable:
        return ("literal", str(atom.val)) if hasattr(atom, "val") else names[atom]

    for equation in jaxpr.eqns:
        reads, name = [named(atom) for atom in equation.invars], equation.primitive.name
        if name in CALLS:
            inner = equation.params[CALLS[name]]
            outputs = _walk(getattr(inner, "jaxpr", inner), reads, operations, known)
        else:
            key = (name, *reads, str(equation.params))
            is_new = key not in known
            outputs = known.setdefault(key, [(len(known), index) for index in range(len(equation.outvars))])
            if is_new:
                operations.append((reads, outputs, _cost(equation)))
        names.update(zip(equation.outvars, outputs, strict=True))
    return [named(atom) for atom in jaxpr.outvars]


def _cost(equation: Any) -> Counter[str]:
    """The cost of a primitive: for a loop its body times its length, for a conditional its most expensive branch."""
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        contracted = params["dimension_numbers"][0][0]
        left = equation.invars[0].aval.shape
        products = math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        return Counter({str(equation.invars[0].aval.dtype): 2 * products})
    if name.startswith("convolution_"):
        shapes = [atom.aval.shape for atom in (*equation.invars, *equation.outvars)]
        blank = name[-1]
        x, w, y = {"y": (0, 1, 2), "x": (2, 0, 1), "w": (0, 2, 1)}[blank]
        (groups, _, _, _, channels), kernel, output = shapes[x], shapes[w], shapes[y]
        products = groups * channels * math.prod(kernel[1:3]) * math.prod(output[1:])
        return Counter({str(equation.invars[0].aval.dtype): 2 * products})
    inner = [getattr(value, "jaxpr", value) for value in params.values() if isinstance(value, ClosedJaxpr | Jaxpr)]
    inner = [jaxpr for jaxpr in inner if isinstance(jaxpr, Jaxpr)]
    if name == "cond":
        return max((_of_jaxpr(branch.jaxpr) for branch in params["branches"]), key=Counter.total)
    once = sum(map(_of_jaxpr, inner), Counter())
    times = params["length"] if name == "scan" else 1
    return Counter({dtype: times * operations for dtype, operations in once.items()})
