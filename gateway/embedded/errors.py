"""Errors of an embedded Postgres, for the person who started the gateway."""

from __future__ import annotations


class EmbeddedPostgresError(Exception):
    """The embedded Postgres cannot be started."""
