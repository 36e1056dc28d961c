"""The one-line reason in an exception of a library that this project does not control (TFDS, PIL, NumPy)."""


def one_line(error: object, length: int = 300) -> str:
    """The text of an exception (or any object) on one line, cut at `length` characters; its type if it has none."""
    return " ".join(str(error).split())[:length] or type(error).__name__
