"""Settings that contradict each other: told in one line, before a port or a database is touched."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from gateway.auth.auth import check as check_auth
from gateway.process.exit_codes import Failure, Misuse
from gateway.settings import BadSetting, Settings, variable
from gateway.settings.types import is_loopback


def check(settings: Settings) -> None:
    """Refuses settings that `serve` cannot start with. Raises Failure."""
    try:
        check_auth(settings)
    except BadSetting as error:
        raise Misuse(str(error)) from None
    if settings.database_url is None and settings.listen_database_url is not None:
        raise Misuse("LISTEN_DATABASE_URL is set, but DATABASE_URL is not: it has to be the same database")
    if settings.database_url is None and settings.read_database_url is not None:
        raise Misuse("READ_DATABASE_URL is set, but DATABASE_URL is not: it has to be a replica of that database")
    if settings.metrics_port == settings.port and settings.port:
        raise Misuse(f"GATEWAY_METRICS_PORT and PORT are both {settings.port}: metrics need a port of their own")
    if settings.upstream is not None and _itself(settings, settings.upstream):
        raise Misuse(f"GATEWAY_UPSTREAM={settings.upstream} is this gateway itself: where is the application?")
    if settings.relay is not None or settings.relay_file is not None:
        _relay(settings)
    if settings.owned is not None or settings.flue_agents is not None or settings.flue_readers is not None:
        _owned(settings)
    if settings.relay is None and settings.relay_file is None:
        _no_relay(settings)
    if settings.flue:
        _flue(settings)
    if settings.traces:
        try:
            import gateway.tracing.export  # noqa: F401  heavy, and only there with an extra
        except ImportError as error:
            raise Failure(f"GATEWAY_TRACES needs the extra otel ({error})") from None


def _itself(settings: Settings, upstream: str) -> bool:
    """Whether a request to this origin would come here, as far as can be told without asking for names."""
    url = urlsplit(upstream)
    port = url.port or (443 if url.scheme == "https" else 80)
    everywhere = settings.host in ("0.0.0.0", "::", "")  # noqa: S104  all addresses of this host
    host = url.hostname or ""
    return port == settings.port and (
        host == settings.host or (is_loopback(host) and (everywhere or is_loopback(settings.host)))
    )


def _relay(settings: Settings) -> None:
    from gateway.relay.configuration import rows_of
    from gateway.relay.errors import BadRow

    try:
        rows = rows_of(settings.relay, settings.relay_file, settings.relay_credential)
    except BadRow as error:
        raise Misuse(str(error)) from None
    if rows and settings.upstream is None:
        raise Misuse("GATEWAY_RELAY is set, but GATEWAY_UPSTREAM is not: which application is behind the relay?")
    if settings.auth != "none" or is_loopback(settings.host):
        return
    for row in rows:
        if not row.credential and row.authorize is None:
            raise Misuse(
                f"HOST={settings.host} would let anyone come back to what {row.name} records: say in"
                " GATEWAY_RELAY_CREDENTIAL what tells clients apart, such as header:authorization or cookie:session;"
                " or give the row `authorize`; or set AUTH"
            )


def _no_relay(settings: Settings) -> None:
    for name in ("relay_recorders", "relay_credential"):
        if getattr(settings, name) is not None:
            raise Misuse(f"{variable(name)} is set, but neither GATEWAY_RELAY nor GATEWAY_RELAY_FILE has a row for it")


def _owned(settings: Settings) -> None:
    from gateway.owner.errors import BadOwned
    from gateway.owner.rows import rows_of as owned_rows

    try:
        rows = owned_rows(settings.owned, settings.owned_busy)
    except BadOwned as error:
        raise Misuse(f"GATEWAY_OWNED: {error}") from None
    if not _agents(settings) and not rows:
        return
    if settings.upstream is None:
        raise Misuse("GATEWAY_OWNED is set, but GATEWAY_UPSTREAM is not: which application has these conversations?")
    if settings.owned_auth and settings.auth == "none":
        raise Misuse("GATEWAY_OWNED_AUTH is set, but AUTH is not: by which credentials are clients let in?")
    if settings.relay_recorders is not None:
        raise Misuse(
            "GATEWAY_RELAY_RECORDERS and GATEWAY_OWNED are both set: the Machine that owns a conversation records its"
            " answers, so there are no others to pass them to"
        )
    if settings.advertise is None and ":" in (settings.fly_private_ip or "") and ":" not in settings.host:
        raise Misuse(f"HOST={settings.host} is not where other Machines reach this one on Fly: set HOST=::")
    if settings.advertised is None and settings.host in ("0.0.0.0", "::"):  # noqa: S104  where others come from
        raise Misuse(
            f"HOST={settings.host} does not say where other Machines reach this one: set GATEWAY_ADVERTISE to its own"
            " address in the private network, such as http://10.0.0.5:8080"
        )


def _agents(settings: Settings) -> bool:
    """Whether there are agents of a Flue app."""
    from gateway.owner.errors import BadOwned
    from gateway.owner.flue.agents import mounts_named

    try:
        mounts = mounts_named(settings.flue_agents)
    except BadOwned as error:
        raise Misuse(f"GATEWAY_FLUE_AGENTS: {error}") from None
    if settings.flue_readers:
        _readers(settings.flue_readers, mounts)
    if not mounts:
        return False
    if settings.upstream is None:
        raise Misuse("GATEWAY_FLUE_AGENTS is set, but GATEWAY_UPSTREAM is not: where is the Flue app?")
    if settings.database_url is None:
        raise Misuse("GATEWAY_FLUE_AGENTS is set, but DATABASE_URL is not: which database is the Flue app's?")
    if settings.flue:
        raise Misuse("GATEWAY_FLUE is for a beta of Flue, and GATEWAY_FLUE_AGENTS for Flue 2.x: which one is it?")
    return True


def _readers(version: str, mounts: Sequence[str]) -> None:
    from gateway.flue.conversations import VERSION

    if version != VERSION:
        raise Misuse(f"GATEWAY_FLUE_READERS: it is not known here what Flue {version} answers, only {VERSION}")
    if not mounts:
        raise Misuse("GATEWAY_FLUE_READERS is set, but GATEWAY_FLUE_AGENTS is not: where are the agents mounted?")


def _flue(settings: Settings) -> None:
    if settings.database_url is None:
        raise Misuse("GATEWAY_FLUE is on, but DATABASE_URL is not set: which database is the Flue app's?")
    if settings.auth == "none" and settings.flue_workflows is None:
        raise Misuse(
            "GATEWAY_FLUE shows runs without asking the app's own `runs` middleware: name the workflows that anybody"
            " may read in GATEWAY_FLUE_WORKFLOWS (* for all), or ask for keys with AUTH"
        )
