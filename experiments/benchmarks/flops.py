"""How much arithmetic is in a turn? Counts it from the program as it is written, before any compiler has seen it.

python -m experiments.benchmarks.flops --systems dcgan32 dcgan64

What counts are the multiplications and additions of matrix products and convolutions, two for each product of two
numbers; all else is a few percent. A convolution, its transpose and its gradient for the weights are one sum seen from
three sides (see gan/networks/conv/primitives.py), so each is 2 B H' W' kh kw C O whatever a compiler makes of it: taps
that fall on the padding are counted, and zeros that a lowering puts in are not. What is computed twice is counted once,
and what nobody reads not at all: a compiler drops both.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

CALLS = {"jit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
         "remat2": "jaxpr", "checkpoint": "jaxpr"}  # fmt: skip
"""Primitives that are an inner program and nothing else, and the parameter that holds it."""


def count(function: Callable, *arguments: Any) -> int:
    """The floating point operations of `function(*arguments)`, arrays or their shapes."""
    return by_type(function, *arguments).total()


def by_type(function: Callable, *arguments: Any) -> Counter[str]:
    """The same by the type of the numbers that are multiplied, such as float32."""
    return _of_program(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_program(program: Jaxpr) -> Counter[str]:
    operations, known = [], {}
    inputs = [("input", index) for index in range(len(program.invars))]
    needed = set(_walk(program, inputs, operations, known))
    total = Counter()
    for reads, writes, cost in reversed(operations):
        if needed.intersection(writes):
            needed.update(reads)
            total += cost
    return total


def _walk(program: Jaxpr, inputs: list[Hashable], operations: list, known: dict) -> list[Hashable]:
    """Appends (reads, writes, cost) of each new operation; the names of the program's outputs.

    A value is named by how it was computed first, so equal values have one name.
    """
    names = dict(zip(program.invars, inputs, strict=True))
    names |= {constant: ("constant", id(constant)) for constant in program.constvars}

    def named(atom: Any) -> Hashable:
        return ("literal", str(atom.val)) if hasattr(atom, "val") else names[atom]

    for equation in program.eqns:
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
    return [named(atom) for atom in program.outvars]


def _cost(equation: Any) -> Counter[str]:
    """Of a primitive; of a loop its body's, as often as it is played, of a choice its dearest branch's."""
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
    inner = [program for program in inner if isinstance(program, Jaxpr)]
    if name == "cond":
        return max((_of_program(branch.jaxpr) for branch in params["branches"]), key=Counter.total)
    once = sum(map(_of_program, inner), Counter())
    times = params["length"] if name == "scan" else 1
    return Counter({dtype: times * operations for dtype, operations in once.items()})


def main() -> None:
    """Prints the operations of a turn of each system."""
    from experiments.benchmarks import step_time, systems

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=list(systems.SYSTEMS), choices=list(systems.SYSTEMS))
    for name in parser.parse_args().systems:
        print(f"{name:12} {step_time.build(systems.configured(name)).operations() / 1e9:12.3f} GFLOP a turn")


if __name__ == "__main__":
    main()
