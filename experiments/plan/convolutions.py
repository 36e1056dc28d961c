"""Finds the convolutions of a compiled program: their kind, dtype and number of groups.

On a GPU a convolution is a call of cuDNN, to which XLA's rewriter converts the program's convolutions:

* `forward`: `__cudnn$convForward` and, with what follows them, `__cudnn$convBiasActivationForward` and
  `__cudnn$convForwardGraph`. A weight gradient may become one as well, with the other array as its dilated kernel
  (`rhs_dilate`), at the same cost.
* `dilated_forward`: a forward call on images that were dilated with zeros, stride^2 times the work of `backward_input`,
  which it should have been. cuDNN has no such calls, so XLA materializes the zeros: a `pad` with interior padding
  (`padding=0_0_0x2_2_1x2_2_1x0_0_0` is low_high_interior of each axis), nearly always inside a fusion, precedes the
  call, with only conversions and data movement in between. A window with `lhs_dilate` has the same meaning.
* `backward_input`: `__cudnn$convBackwardInput`. `backward_filter`: `__cudnn$convBackwardFilter`.
* `unfused`: a convolution that was not converted to a call. One in a fusion that cuDNN compiles (`__cudnn$fusion`) is a
  call, whose kind is an attribute (`convolution_kind=fprop`, `dgrad` or `wgrad`).

On a TPU all of them are `convolution` instructions, and so are products of matrices. XLA expresses groups of either as
one more axis of the window, of size n with stride n - 1 and dilation n and no padding, so that each position is paired
with itself only. A product has no other axes of the window, or only contracted ones; it is recognized by its `op_name`,
which ends in dot_general, or by having no other axis. Of the convolutions

* `backward_filter` sums over examples: the images' leading axis is the features of the convolution
  (`dim_labels=f01b_i01o->01bf`), or `batch_group_count` is above 1;
* `backward_input` has a dilated image (`lhs_dilate`), whose zeros TPUs skip, or, without stride, a reversed
  kernel (`rhs_reversal`);
* `forward` are all others.

The dtype is that of the first operand; that of the result does not determine the speed. The groups are
`feature_group_count` or `batch_group_count`, times the sizes of such axes.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

from experiments.plan.hlo import Instruction, Program

CALLS = {
    "__cudnn$convForward": "forward",
    "__cudnn$convBiasActivationForward": "forward",
    "__cudnn$convForwardGraph": "forward",
    "__cudnn$convBackwardInput": "backward_input",
    "__cudnn$convBackwardFilter": "backward_filter",
}
"""Kinds of cuDNN's calls by their targets."""
FUSED = {"fprop": "forward", "dgrad": "backward_input", "wgrad": "backward_filter"}
"""`convolution_kind` of a convolution in a fusion that cuDNN compiles."""
TYPES = {"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"}
MOVES = ("bitcast", "convert", "copy", "get-tuple-element", "reshape", "transpose")
"""Opcodes that keep the zeros between the elements of an image."""


class Convolution(NamedTuple):
    """The counted properties of a convolution."""

    kind: str
    dtype: str
    groups: int


class Axis(NamedTuple):
    """One axis of a window."""

    size: int
    stride: int
    is_padded: bool
    lhs_dilate: int
    is_reversed: bool

    @property
    def groups(self) -> int:
        """The number of groups, if the axis pairs each position with itself only, else 1."""
        is_pairing = self.size == self.lhs_dilate == self.stride + 1 and not (self.is_padded or self.is_reversed)
        return self.size if is_pairing else 1


def convolutions(program: Program, platform: str) -> Counter[Convolution]:
    """The convolutions of a program for "cuda" or "tpu"; one in a loop counts once."""
    kind_of = {"cuda": _kind_on_gpu, "tpu": _kind_on_tpu}[platform]
    found = Counter()
    for computation, instructions in program.computations.items():
        for instruction in instructions.values():
            if kind := kind_of(program, computation, instruction):
                image = instructions[instruction.operands[0]]
                dtype = re.match(r"\w+", image.shape)[0]
                found[Convolution(kind, TYPES.get(dtype, dtype), _groups(instruction))] += 1
    return found


def _kind_on_gpu(program: Program, computation: str, instruction: Instruction) -> str:
    if instruction.opcode == "convolution":
        _, caller = program.callers.get(computation, ("", None))
        is_fused = caller is not None and "__cudnn$fusion" in caller.attributes
        kind = FUSED[instruction.word("convolution_kind")] if is_fused else "unfused"
    else:
        kind = CALLS.get(instruction.word("custom_call_target"), "")
    if kind != "forward":
        return kind
    is_dilated = any(axis.lhs_dilate > 1 for axis in _window(instruction))
    return "dilated_forward" if is_dilated or _has_zeros(program, computation, instruction.operands[0]) else kind


def _kind_on_tpu(program: Program, computation: str, instruction: Instruction) -> str:
    if instruction.opcode != "convolution":
        return ""
    window = [axis for axis in _window(instruction) if axis.groups == 1]
    if not window or instruction.word("op_name").endswith("/dot_general"):
        return ""
    image = instruction.word("dim_labels").partition("_")[0]
    if image.index("f") < image.index("b") or int(instruction.word("batch_group_count") or 1) > 1:
        return "backward_filter"
    return "backward_input" if any(axis.lhs_dilate > 1 or axis.is_reversed for axis in window) else "forward"


def _groups(instruction: Instruction) -> int:
    counts = (int(instruction.word(name) or 1) for name in ("feature_group_count", "batch_group_count"))
    return math.prod([*counts, *(axis.groups for axis in _window(instruction))])


def _window(instruction: Instruction) -> list[Axis]:
    """Parses `window={size=3x3 stride=2x2 pad=0_1x0_1 lhs_dilate=2x2 rhs_reversal=1x1}` with defaults."""
    fields = dict(field.split("=") for field in instruction.braces("window").split())
    sizes = fields.get("size", "").split("x") if fields else []

    def all_axes(name: str, default: str) -> list[str]:
        return fields[name].split("x") if name in fields else [default] * len(sizes)

    columns = (all_axes(name, default) for name, default in
               (("stride", "1"), ("pad", "0_0"), ("lhs_dilate", "1"), ("rhs_reversal", "0")))  # fmt: skip
    return [
        Axis(int(size), int(stride), pad != "0_0", int(dilate), reverse == "1")
        for size, stride, pad, dilate, reverse in zip(sizes, *columns, strict=True)
    ]


def _has_zeros(program: Program, computation: str, name: str) -> bool:
    """Whether an array has interior padding, and was only moved or converted afterwards."""
    place = 0  # of the array in a tuple
    while True:
        instruction = program.computations[computation][name]
        if instruction.opcode == "pad":
            edges = (axis.split("_") for axis in instruction.word("padding").split("x"))
            return any(len(edge) == 3 and edge[2] != "0" for edge in edges)
        if instruction.called:
            computation = instruction.called
            root = next(entry for entry in program.computations[computation].values() if entry.is_root)
            name = root.operands[place] if root.opcode == "tuple" else root.name
        elif instruction.opcode == "parameter" and computation in program.callers:
            computation, caller = program.callers[computation]
            name = caller.operands[int(instruction.arguments)]
        elif instruction.opcode in MOVES:
            place = int(instruction.word("index") or 0)
            name = instruction.operands[0]
        else:
            return False
