"""How many floating point operations has a training step of each system? See operations.py for what is counted.

python -m experiments.benchmarks.flops --systems dcgan32 dcgan64
"""

from experiments import cli
from experiments.benchmarks import program, systems


def main() -> None:
    """Prints the operations of a step of each system."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument("--systems", nargs="+", default=list(systems.SYSTEMS), choices=list(systems.SYSTEMS))
    for name in parser.parse_args().systems:
        print(f"{name:12} {program.build(systems.configured(name)).operations() / 1e9:12.3f} GFLOP a step")


if __name__ == "__main__":
    cli.run(main)
