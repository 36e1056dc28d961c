"""Flags that are numbers: a text that means none is answered with what is expected."""

from absl import flags

from gan.config.schema import kind_name, whole_number


class WholeNumberParser(flags.IntegerParser):
    """Parses whole numbers, which may be written as 1e4."""

    def convert(self, argument: str | int) -> int:
        """The number. Raises `ValueError` for a text that means none."""
        try:
            return whole_number(str(argument))
        except ValueError:
            raise ValueError(f"expected: {kind_name(int)}") from None


class NumberParser(flags.FloatParser):
    """Parses numbers."""

    def convert(self, argument: str | float) -> float:
        """The number. Raises `ValueError` for a text that means none."""
        try:
            return float(argument)
        except ValueError:
            raise ValueError(f"expected: {kind_name(float)}") from None
