"""Fields of plain data that are not valid, as entries of a problem document."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

PLAIN_NAME = re.compile("[A-Za-z][A-Za-z0-9_-]{0,63}")
WHOLE, NUMBER, FLAG = "It must be a whole number.", "It must be a number.", "It must be true or false."
SENTENCES = {  # of pydantic's errors
    "missing": "It is missing.",
    "finite_number": "A number must be finite, neither NaN nor infinite.",
    "greater_than": "It must be above {gt}.",
    "greater_than_equal": "It must be at least {ge}.",
    "less_than_equal": "It must be at most {le}.",
    "literal_error": "It must be {expected}.",
    "string_pattern_mismatch": "It must match {pattern}.",
    "string_too_long": "It may have {max_length} characters.",
    "string_type": "It must be a text.",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), NUMBER),
    **dict.fromkeys(("bool_type", "bool_parsing"), FLAG),
}


def public_names(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's fields, as callers write them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def sentence(item: Mapping[str, Any]) -> str:
    """Return what one of pydantic's errors says, without the value."""
    if item["type"] in SENTENCES:
        return SENTENCES[item["type"]].format(**item.get("ctx", {}))
    return f"{str(item['msg']).removeprefix('Value error, ').rstrip('.')}."


def field_errors(error: ValidationError, model: type[BaseModel]) -> list[dict[str, str]]:
    """Return up to 20 problem-document entries that name fields and say what is wrong, and echo no value.

    Args:
        error: what pydantic raised.
        model: the model that it raised for.
    """
    entries = []
    for item in error.errors(include_url=False, include_input=False)[:20]:
        # A name that is not ours is input, and is echoed only where it is a plain word.
        plain = all(isinstance(part, int) or PLAIN_NAME.fullmatch(part) for part in item["loc"])
        pointer = "/" + "/".join(str(part) for part in item["loc"]) if plain else "/"
        if item["type"] == "extra_forbidden":
            name = str(item["loc"][-1])
            detail = f"`{name}` is not known here." if plain else "There is a field that is not known here."
            if near := difflib.get_close_matches(name, public_names(model), 1):
                detail += f" Is it `{near[0]}`?"
        else:
            detail = sentence(item)
        entries.append({"pointer": pointer[:128], "detail": detail[:256]})
    return entries
