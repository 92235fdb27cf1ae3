"""What all sections of a configuration file are made of: tables that are strict, and kinds of values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from .notation import parse_time


def one_or_many(value: object) -> object:
    """A single string stands for an array of it; commas separate, as in swanctl.conf."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",")]
    return value


def printable(value: str) -> str:
    """No name, path or identity holds a control character; one that does is a mistake or worse."""
    if not value.isprintable():
        raise ValueError("holds a character that can't be printed; remove it")
    return value


Printable = Annotated[str, AfterValidator(printable)]
Seconds = Annotated[float, BeforeValidator(parse_time)]
Strings = Annotated[list[Printable], BeforeValidator(one_or_many)]
Text = Annotated[Printable, Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
# A bound that a key adds to these is not looked at: pydantic takes the one that it finds here.
Rate = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]
Burst = Annotated[float, Field(ge=1, le=10**9, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**12)]


def key(default: Any, description: str, example: str, **bounds: Any) -> Any:
    """One key with its default (`...`: it must be given), its meaning and an example, as TOML writes it."""
    return Field(default, description=description, examples=[example], **bounds)


class Section(BaseModel):
    """A table of the file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
