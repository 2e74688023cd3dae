"""Everything that can be set, read once from the environment and frozen.

It knows names, types, bounds and words for people. It opens nothing and checks nothing outside itself:
whether a database answers or a port is free is for those who use it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

EVERYBODYS = frozenset(
    {
        "auth",
        "database_url",
        "listen_database_url",
        "host",
        "port",
        "public_url",
        "fly_region",
        "fly_machine_id",
        "primary_region",
    }
)
"""Fields whose variables are named as everybody, or Fly, names them; all others have the prefix."""

KIB = 1024
MIB = 1024 * KIB


class BadSetting(Exception):
    """A setting has a value that cannot be used; the message is one line and names the variable."""


def _postgres_url(value: str) -> str:
    if not value.startswith(("postgres://", "postgresql://")):
        # The value itself stays out of the message: it may hold a password.
        raise ValueError("must begin with postgres:// or postgresql://")
    return value


def _http_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


def _jwks_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host = parts.hostname
    except ValueError:
        host = None
    if (
        host is None
        or parts.username is not None
        or not (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)))
    ):
        # Whoever could change it on its way would sign for everyone.
        raise ValueError("must be an https:// address without a password; http:// on loopback alone")
    return value


def _auth(value: str) -> str:
    kinds = sorted(kind.strip() for kind in value.split(","))
    if kinds != ["none"] and (not set(kinds) <= {"jwt", "keys"} or len(kinds) != len(set(kinds))):
        raise ValueError("must be none, keys, jwt or keys,jwt")
    return ",".join(kinds)


def _origin(value: str) -> str:
    url = urlsplit(_http_url(value))
    if not url.hostname or url.path or url.query or url.fragment or url.username:
        raise ValueError("must be an origin: http://host:port, and nothing after it")
    return value.rstrip("/")


def _origins(value: str) -> str:
    return value if value in ("*", "none") else ",".join(sorted({_of_page(each) for each in value.split(",")}))


def _of_page(value: str) -> str:
    """An origin as browsers spell it: one that is never sent would never be allowed."""
    origin = _origin(value.strip()).lower()
    if "*" in origin:
        raise ValueError("must be *, none, or origins in full")
    return origin.removesuffix(":443" if origin.startswith("https:") else ":80")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


PostgresURL = Annotated[str, AfterValidator(_postgres_url)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The settings of one Machine. Fields have Python's names; `variable` gives the environment's."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    database_url: PostgresURL | None = Field(
        None,
        repr=False,
        description="Address of the Postgres that holds the log, or its PgBouncer; none: an embedded one.",
    )
    listen_database_url: PostgresURL | None = Field(
        None,
        repr=False,
        description="Address of the same Postgres past any PgBouncer, for LISTEN; none means DATABASE_URL.",
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(
        8080,
        ge=0,
        le=65_535,
        description="Port to listen on; 0 picks a free one.",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65_535, description="Port on which /metrics is served instead of on PORT; 0 picks a free one."
    )
    workers: int = Field(
        1, ge=1, le=64, description="Processes that share the port, one for each core, each a Machine of its own."
    )
    public_url: Annotated[str, AfterValidator(_http_url)] | None = Field(
        None, description="Address under which clients reach this server, for links in answers; none: HOST and PORT."
    )
    upstream: Annotated[str, AfterValidator(_origin)] | None = Field(
        None, description="Origin of the application behind the gateway, which gets what is not the gateway's own."
    )
    auth: Annotated[str, AfterValidator(_auth)] = Field(
        "none", description="Who is let in: `none` for everyone, or the holders of `keys`, `jwt` or `keys,jwt`."
    )
    allow_anonymous: bool = Field(
        False, description="Whether `serve` may listen on more than loopback while AUTH is `none`."
    )
    keys: str | None = Field(
        None, repr=False, description="Keys, each as NAME:SCOPES:SECRET or NAME@TENANT:SCOPES:SECRET, space between."
    )
    keys_file: Path | None = Field(None, description="File of more keys, one a line, which SIGHUP has read again.")
    jwt_secret: str | None = Field(
        None, repr=False, description="Secret of JWTs that are signed with HS256, at least 32 bytes."
    )
    jwt_jwks_url: Annotated[str, AfterValidator(_jwks_url)] | None = Field(
        None, description="Address of the public keys of JWTs that are signed with RS256, ES256 or EdDSA."
    )
    jwt_issuer: str | None = Field(
        None, description="Issuer (`iss`) that a JWT must have; needed for GATEWAY_JWT_JWKS_URL."
    )
    jwt_audience: str | None = Field(
        None, description="Audience (`aud`) that a JWT must have; needed for GATEWAY_JWT_JWKS_URL."
    )
    jwt_leeway: float = Field(
        10.0, ge=0, le=300, allow_inf_nan=False, description="Seconds that the issuer's clock may differ from ours."
    )
    jwt_scope_claim: str = Field("scope", min_length=1, description="Claim that holds a JWT's scopes.")
    jwt_tenant_claim: str | None = Field(
        None, description="Claim that names a JWT's tenant, and must be there; none: all are of the default one."
    )
    jwt_runs_claim: str = Field(
        "runs", min_length=1, description="Claim that holds patterns of the runs that a JWT is for; absent: all."
    )
    token_ttl: int = Field(
        3600, ge=1, le=30 * 86_400, description="Seconds that a run's token is valid, unless it is asked for less."
    )
    token_secrets: str | None = Field(
        None,
        repr=False,
        description="Secrets that sign runs' tokens, the newest first, space between; none: a key in the database.",
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] | None = Field(
        None,
        description="Origins whose pages may read and write, with commas; `*`: all; `none`; when empty, all while AUTH"
        " is none, and else none.",
    )
    data_dir: Path = Field(
        Path("./.run-gateway"), description="Folder of the embedded Postgres, made when it is missing."
    )
    long_poll_timeout: Seconds = Field(30.0, description="Seconds that a long-poll waits for news.")
    sse_max_age: Seconds = Field(
        60.0, description="Seconds after which an SSE response ends cleanly, for its client to resume."
    )
    request_timeout: Seconds = Field(60.0, description="Seconds that a request, its body included, may take to arrive.")
    heartbeat: Seconds = Field(15.0, description="Seconds of silence after which an SSE response is sent a comment.")
    max_body: int = Field(10 * MIB, ge=1, le=1024 * MIB, description="Bytes that the body of one request may have.")
    max_event: int | None = Field(None, ge=1, description="Bytes that one event may have; when empty, as its body.")
    max_batch: int | None = Field(None, ge=1, description="Events that one request may append; when empty, any number.")
    max_appends_per_token: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Appends a second that one credential may make of each worker."
    )
    max_creates_per_token: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Streams a second that one credential may make by each worker."
    )
    max_streams_per_token: int | None = Field(
        None, ge=1, description="SSE responses and long-polls that one credential may have open at each worker."
    )
    max_requests_per_address: int | None = Field(
        None, ge=1, description="Requests, open streams among them, that one client address may have at each worker."
    )
    max_runs_per_tenant: int | None = Field(
        None, ge=1, description="Runs that a tenant may have, give or take those of the last seconds."
    )
    page_bytes: int = Field(1 * MIB, ge=KIB, le=256 * MIB, description="Bytes of events read from the log at once.")
    pool_size: int = Field(
        8, ge=1, le=1000, description="Connections to the database, of each worker, without the one for LISTEN."
    )
    connection_max_age: Seconds = Field(
        600.0, description="Seconds that a connection to the database is used before it is replaced."
    )
    max_connections: int = Field(
        20_000,
        ge=1,
        description="Connections of each worker; on more, all requests but for /health and /ready are answered 503.",
    )
    max_head: int = Field(
        32 * KIB, ge=KIB, le=MIB, description="Bytes that the line and headers of a request may have."
    )
    keep_alive: Seconds = Field(75.0, description="Seconds that a connection may wait for its next request.")
    max_readers: int = Field(
        10_000, ge=1, description="Open SSE responses and long-polls of each worker; more are answered 503."
    )
    max_reads: int = Field(4, ge=1, description="Pages of the log that each worker reads at once; others wait.")
    require_listen: bool = Field(
        False, description="Whether `serve` refuses to start where news would have to be polled for."
    )
    statement_timeout: Seconds = Field(10.0, description="Seconds that one statement may take in the database.")
    append_timeout: Seconds = Field(
        5.0, description="Seconds that the database may take over appends before they are answered 503."
    )
    max_pending: int = Field(
        64 * MIB, ge=1, le=64 * 1024 * MIB, description="Bytes of appends that may wait for the database; then 429."
    )
    sweep_interval: Seconds = Field(
        1.0, description="Seconds between looks at the log for news that no notification told of."
    )
    poll_interval: Seconds = Field(0.25, description="Seconds between looks at the log while LISTEN does not work.")
    retention: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a stream is kept after it was closed; when empty, until it is deleted or expires.",
    )
    pack: bool = Field(
        True, description="Whether events that have come to rest are packed into compressed pages, in the background."
    )
    housekeeping_interval: Seconds = Field(
        15.0, description="Seconds between rounds of packing and removing, by one Machine at a time."
    )
    drain_timeout: float = Field(
        10.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that open responses have to end after SIGTERM or SIGINT.",
    )
    migrate: bool = Field(
        True,
        description="Whether `serve` updates the schema of DATABASE_URL; the embedded one's always is.",
    )
    allow_local_webhooks: bool | None = Field(
        None,
        description="Whether webhooks may go to this very host by plain http; when empty, only if HOST is loopback.",
    )
    flue: bool = Field(
        False, description="Whether runs of a Flue app in the same database are served too, from its own tables."
    )
    flue_workflows: str | None = Field(
        None,
        min_length=1,
        description="Names, with commas, of the Flue workflows whose runs may be read; `*` means all.",
    )
    flue_orphan_after: Seconds | None = Field(
        None,
        description="Seconds without a new event after which a Flue run is ended as abandoned; none: never.",
    )
    flue_poll_interval: Seconds = Field(
        0.1, description="Seconds between looks at the Flue runs that are followed, where its tables have no triggers."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least level of what is logged to stderr."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Lines of the log: json, text, or auto, which is text at a terminal and json elsewhere."
    )
    access_log: bool = Field(
        False, description="Whether each request is logged when its response has ended; appends are slower then."
    )
    traces: bool = Field(
        False,
        description="Whether appends and deliveries are traced by OpenTelemetry, as its own variables say;"
        " needs the extra otel.",
    )
    fly_region: str | None = Field(None, description="Region of this Machine, for logs and metrics; Fly sets it.")
    fly_machine_id: str | None = Field(None, description="Fly's name for this Machine; Fly sets it.")
    primary_region: str | None = Field(
        None, description="Region where the database is; Fly sets it to its primary_region."
    )
    replay_appends: bool = Field(
        False, description="Whether appends that reach another region are sent to PRIMARY_REGION by Fly's proxy."
    )

    @property
    def place(self) -> dict[str, str]:
        """What Fly calls this Machine, for logs and metrics; nothing elsewhere."""
        named = {"region": self.fly_region, "fly_machine": self.fly_machine_id}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def open_to_all(self) -> bool:
        """Whether others than this host's own could come in without a credential, though nobody said that they may."""
        return self.auth == "none" and not self.allow_anonymous and not _is_loopback(self.host)

    @property
    def origins(self) -> tuple[str, ...]:
        """`cors_origins` as they are meant: where everyone is let in, so are pages."""
        if self.cors_origins is None:
            return ("*",) if self.auth == "none" else ()
        return () if self.cors_origins == "none" else tuple(self.cors_origins.split(","))

    @property
    def local_webhooks(self) -> bool:
        """`allow_local_webhooks` as it is meant: who listens for this host alone is at home, and may call itself."""
        return _is_loopback(self.host) if self.allow_local_webhooks is None else self.allow_local_webhooks

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments go before the environment; there is nothing else, no file of settings."""
        return init_settings, _Environment(settings_cls)


class _Environment(EnvSettingsSource):
    # The library knows one prefix for all fields; aliases instead would admit a second name for each.
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self.env_vars.get(variable(field_name).lower()), field_name, False


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


def variable(name: str) -> str:
    """The environment variable of a field: `data_dir` -> `GATEWAY_DATA_DIR`, `port` -> `PORT`."""
    return name.upper() if name in EVERYBODYS else f"GATEWAY_{name.upper()}"


def misspelt(environment: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Variables that look like settings and are none, each with the one that was probably meant."""
    known = [variable(name) for name in Settings.model_fields]
    for name in environment:
        if name.startswith("GATEWAY_") and name not in known:
            bare = name.removeprefix("GATEWAY_")
            # So close that what an orchestrator sets for a service that is called gateway is not taken for a mistake.
            meant = [bare] if bare in known else difflib.get_close_matches(name, known, 1, 0.9)
            yield from ((name, setting) for setting in meant)


class Row(NamedTuple):
    """One setting as people read it."""

    variable: str
    default: str
    description: str


def rows() -> Iterator[Row]:
    """Every setting, in the order of the class, for `serve --help` and the README."""
    for name, field in Settings.model_fields.items():
        yield Row(variable(name), _default(field), field.description or "")


def table() -> str:
    """The settings as the Markdown table that stands in the README."""
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    lines += [f"| `{row.variable}` | {row.default and f'`{row.default}`'} | {row.description} |" for row in rows()]
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    match field.default:
        case None:
            return ""
        case bool(value):
            return str(value).lower()
        case Path() as path:
            return f"./{path}"
        case float(value):
            return f"{value:g}"
        case value:
            return str(value)
