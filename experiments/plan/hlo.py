"""Reads the text of a compiled program."""

import functools
import math
import re
from collections import Counter


def collectives(text: str) -> Counter[str]:
    """The bytes of all arrays that a compiled program exchanges, by the kind of exchange, as XLA prints it.

    What is inside a loop is counted as often as the loop is played, of branches the one that exchanges most.
    """
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            entry, bodies[name] = name if head[1] else entry, []
        elif name:
            bodies[name].append(line)

    @functools.cache
    def inside(name: str) -> Counter[str]:
        total = Counter()
        for line in bodies[name]:
            if found := re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})\(", line):
                total[found[2]] += _printed_bytes(found[1])
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            for called in re.findall(r"(?:body|to_apply|calls)=%?([\w.-]+)", line):
                for kind, size in inside(called).items():
                    total[kind] += size * (int(trips[1]) if trips else 1)
            several = re.search(r"branch_computations=\{(.*?)\}", line)
            two = re.findall(r"(?:true|false)_computation=%?([\w.-]+)", line)
            if branches := re.findall(r"[\w.-]+", several[1]) if several else two:
                total += max(map(inside, branches), key=Counter.total)
        return total

    return inside(entry)


COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEMS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}


def _printed_bytes(shapes: str) -> int:
    """Of `f32[4,8]{1,0}`, or of `(f32[4]{0}, s32[])`."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
    return sum(_ITEMS[dtype] * math.prod(int(size) for size in sizes.split(",") if size) for dtype, sizes in arrays)
