"""Parses the HLO text of a compiled program, and counts the communication between its devices."""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEMS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation: `%name = shape opcode(arguments), attributes`."""

    name: str
    shape: str
    opcode: str
    arguments: str
    """The text in parentheses: names of other instructions, a constant, or the number of a parameter."""
    attributes: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """The names of its input instructions."""
        return re.findall(r"%([\w.-]+)", self.arguments)

    def braces(self, attribute: str) -> str:
        """The value of `attribute={...}`, or ""."""
        found = re.search(rf"\b{attribute}=\{{(.*?)\}}", self.attributes)
        return found[1] if found else ""

    def word(self, attribute: str) -> str:
        """The value of `attribute=...`, without quotes or the `%` of a name, or ""."""
        found = re.search(rf'\b{attribute}=(?:"([^"]*)"|%?([^\s,}}]+))', self.attributes)
        return (found[1] or found[2]) if found else ""

    @property
    def called(self) -> str:
        """The computation that a fusion or a call calls, or ""."""
        return self.word({"fusion": "calls", "call": "to_apply"}.get(self.opcode, "none"))


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program: its computations by name, each the instructions by name."""

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    def instructions(self) -> Iterator[Instruction]:
        """Yields the instructions of all computations."""
        for computation in self.computations.values():
            yield from computation.values()

    @functools.cached_property
    def callers(self) -> dict[str, tuple[str, Instruction]]:
        """For each called computation: the name of the caller, and its fusion or call instruction."""
        return {
            instruction.called: (name, instruction)
            for name, computation in self.computations.items()
            for instruction in computation.values()
            if instruction.called
        }


def parse(text: str) -> Program:
    """Parses the text of `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([^\s(]+) \(.*\{$", line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif found := re.match(r"\s+(ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$", line):
            root, name, shape, opcode, rest = found.groups()
            end = _closing(rest)
            current[name] = Instruction(name, shape, opcode, rest[:end], rest[end + 1 :], bool(root))
    return Program(computations, entry)


def collectives(program: Program) -> Counter[str]:
    """Counts the collectives of a program by kind; one in a loop counts once.

    An asynchronous collective is two instructions, `-start` and `-done`, and counts once.
    """
    names = (instruction.opcode.removesuffix("-start") for instruction in program.instructions())
    return Counter(name for name in names if name in COLLECTIVES)


def exchanged_bytes(program: Program) -> Counter[str]:
    """The bytes of all arrays that the collectives of a program for CPUs exchange, by kind.

    Collectives in a loop count once for each iteration; of the branches of a conditional, the largest counts.
    """

    @functools.cache
    def inside(name: str) -> Counter[str]:
        total = Counter()
        for instruction in program.computations[name].values():
            if instruction.opcode in COLLECTIVES:
                total[instruction.opcode] += _printed_bytes(instruction.shape)
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.attributes)
            for called in re.findall(r"(?:body|to_apply|calls)=%?([\w.-]+)", instruction.attributes):
                for kind, size in inside(called).items():
                    total[kind] += size * (int(trips[1]) if trips else 1)
            several = re.findall(r"[\w.-]+", instruction.braces("branch_computations"))
            two = re.findall(r"(?:true|false)_computation=%?([\w.-]+)", instruction.attributes)
            if branches := several or two:
                total += max(map(inside, branches), key=Counter.total)
        return total

    return inside(program.entry)


def _printed_bytes(shapes: str) -> int:
    """The bytes of shapes such as `f32[4,8]{1,0}` or `(f32[4]{0}, s32[])`."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(_ITEMS[dtype] * math.prod(int(size) for size in sizes.split(",") if size) for dtype, sizes in arrays)


def _closing(text: str) -> int:
    """The index of the parenthesis that closes one opened just before `text`."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return place
    return len(text)
