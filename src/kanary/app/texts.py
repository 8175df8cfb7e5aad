"""Texts in the bodies of requests."""

from typing import Annotated

from pydantic import AfterValidator


def whole(text: str) -> str:
    """Half of a UTF-16 pair, which browsers can send, is no character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


Whole = Annotated[str, AfterValidator(whole)]
