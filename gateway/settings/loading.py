"""Settings made from the environment and from flags, or one line that says which of them cannot be used, and why."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.settings.environment import variable
from gateway.settings.model import Settings


class BadSetting(Exception):
    """A setting has a value that cannot be used; the message is one line and names the variable."""


def load(**flags: Any) -> Settings:
    """The settings from the environment; flags that are not None go before it. Raises BadSetting."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise BadSetting("; ".join(_explain(fault, given) for fault in error.errors())) from None


def _explain(fault: ErrorDetails, given: dict[str, Any]) -> str:
    name = str(fault["loc"][0])
    source = f"--{name.replace('_', '-')}" if name in given else variable(name)
    # What is not shown in repr may hold a password.
    value = f"={str(fault['input'])!r}" if Settings.model_fields[name].repr else ""
    return f"{source}{value} {fault['msg'].removeprefix('Value error, ').removeprefix('Input ')}"
