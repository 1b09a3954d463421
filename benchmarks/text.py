"""Text that others have written, made fit to be stored and to be shown."""

from __future__ import annotations

__all__ = ["bounded", "printable"]


def bounded(text: str, most: int = 4000) -> str:
    """Text that any file can hold: its middle left out if it is long, no halves of characters.

    Example:
        >>> bounded("a" * 30 + "b" * 30, most=10)
        'aaaaa [50 characters left out] bbbbb'
    """
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} [{len(text) - 2 * half} characters left out] {text[-half:]}"
    # A lone surrogate, as of a file's name that is no text, has no place in UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str, most: int = 1000) -> str:
    r"""Text that does nothing to a terminal: control characters are spelled out, lines stay.

    Example:
        >>> printable("red: \x1b[31m")
        'red: \\x1b[31m'
    """
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in bounded(text, most)
    )
