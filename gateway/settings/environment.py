"""The environment variables of settings: what each is called, and how it is read."""

from __future__ import annotations

from typing import Any, Final

from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

UNPREFIXED: Final = frozenset(
    {
        "auth",
        "database_url",
        "listen_database_url",
        "read_database_url",
        "host",
        "port",
        "public_url",
        "fly_region",
        "fly_machine_id",
        "fly_private_ip",
        "primary_region",
    }
)
"""Fields whose variables are called as everywhere else (`PORT`), or by Fly; all others begin with `GATEWAY_`."""


def variable(name: str) -> str:
    """The environment variable of a field: `data_dir` -> `GATEWAY_DATA_DIR`, `port` -> `PORT`."""
    return name.upper() if name in UNPREFIXED else f"GATEWAY_{name.upper()}"


class Environment(EnvSettingsSource):
    """The environment as a source of settings, by the names that `variable` gives."""

    # The library has one prefix for all fields. It also has aliases, but with those a field keeps its own name as well.
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self.env_vars.get(variable(field_name).lower()), field_name, False
