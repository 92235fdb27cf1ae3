"""From pydantic's errors to a problem in words, with a remedy."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from .notation import toml_type
from .schema import Configuration


def explain(error: ValidationError) -> tuple[str, str, int]:
    """The first error's dotted key, its problem with the remedy, and the number of other errors."""
    details = error.errors(include_url=False)
    first = details[0]
    return _dotted(first["loc"]), _problem(first), len(details) - 1


def field_at(loc: Sequence[str | int]) -> tuple[FieldInfo | None, type[BaseModel] | None]:
    """The schema's field at a location, and the table that holds it (None where the way ends early)."""
    table: type[BaseModel] | None = Configuration
    field: FieldInfo | None = None
    steps = list(loc)
    while steps and table is not None:
        field = table.model_fields.get(str(steps.pop(0)))
        if field is None:
            return None, table
        inner, named = _table_in(field.annotation)
        if inner is None or not steps:
            break
        if named:
            steps.pop(0)
            if not steps:
                return field, inner
        table = inner
    return field, table


def _table_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The table that a field holds, and whether it holds many of them by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for part in typing.get_args(annotation) if typing.get_origin(annotation) is types.UnionType else ():
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part, False
    if typing.get_origin(annotation) is dict:
        return typing.get_args(annotation)[1], True
    return None, False


def _problem(detail: Any) -> str:
    kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
    field, table = field_at(loc)
    example = _example(field, loc)
    if kind == "missing":
        return f"is missing; {_how_to_add(loc, field, example)}"
    if kind == "extra_forbidden":
        return _unknown_key(str(loc[-1]), table)
    if kind == "literal_error":
        return f"{_shown(detail['input'])} is not one of {context['expected'].replace(chr(39), chr(34))}"
    if kind == "value_error":
        return f"{context['error']}{example}"
    bound = _bound(kind, context)
    if bound:
        return f"{_shown(detail['input'])} is out of range: it must be {bound}{example}"
    return f"must be {_wanted(kind)}, not {toml_type(detail['input'])}{example}"


def _how_to_add(loc: Sequence[str | int], field: FieldInfo | None, example: str) -> str:
    if field is not None and _table_in(field.annotation)[0] is not None:
        name = ".NAME" if _table_in(field.annotation)[1] else ""
        return f"add a table [{_dotted(loc)}{name}]"
    return f"add it{example}"


def _unknown_key(key: str, table: type[BaseModel] | None) -> str:
    known = sorted(table.model_fields) if table is not None else []
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"is not a known key; did you mean {near[0]}?"
    if not known:
        return "is not a known key; remove it"
    return f"is not a known key; remove it (known are {', '.join(known)})"


_WANTED: Mapping[str, str] = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "true or false",
    "float_type": "a number",
    "list_type": "an array of strings",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def _wanted(kind: str) -> str:
    return _WANTED.get(kind, f"valid ({kind})")


def _bound(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "greater_than_equal":
        return f"at least {_number(context['ge'])}"
    if kind == "greater_than":
        return f"more than {_number(context['gt'])}"
    if kind == "less_than_equal":
        return f"at most {_number(context['le'])}"
    if kind == "string_too_short":
        return "not empty"
    if kind == "string_too_long":
        return f"at most {context['max_length']} characters long"
    if kind == "too_short":
        return "not empty"
    return ""


def _example(field: FieldInfo | None, loc: Sequence[str | int]) -> str:
    if field is None or not field.examples:
        return ""
    key = next((str(step) for step in reversed(loc) if isinstance(step, str)), "")
    return f", for example: {key} = {field.examples[0]}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{value[:60]}"'
    return str(value)[:60]


def _dotted(loc: Sequence[str | int]) -> str:
    text = ""
    for step in loc:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text
