"""Settings that cannot be meant together: told in one line, before a port or a database is touched."""

from __future__ import annotations

from gateway.auth.auth import check as check_auth
from gateway.process.exit_codes import Failure, Misuse
from gateway.settings import BadSetting, Settings


def check(settings: Settings) -> None:
    """What `serve` refuses at once. Raises Failure."""
    try:
        check_auth(settings)
    except BadSetting as error:
        raise Misuse(str(error)) from None
    if settings.database_url is None and settings.listen_database_url is not None:
        raise Misuse("LISTEN_DATABASE_URL is set, but DATABASE_URL is not: it has to be the same database")
    if settings.flue:
        _flue(settings)
    if settings.traces:
        try:
            import gateway.tracing.export  # noqa: F401  heavy, and only there with an extra
        except ImportError as error:
            raise Failure(f"GATEWAY_TRACES needs the extra otel ({error})") from None


def _flue(settings: Settings) -> None:
    if settings.database_url is None:
        raise Misuse("GATEWAY_FLUE is on, but DATABASE_URL is not set: which database is the Flue app's?")
    if settings.auth == "none" and settings.flue_workflows is None:
        raise Misuse(
            "GATEWAY_FLUE shows runs without asking the app's own `runs` middleware: name the workflows that anybody"
            " may read in GATEWAY_FLUE_WORKFLOWS (* for all), or ask for keys with AUTH"
        )
