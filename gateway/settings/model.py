"""Every setting with its type, its bounds, its default and its description.

The fields stand in groups (SECTIONS), and in the order in which the manual and `serve --help` list them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.settings.environment import Environment
from gateway.settings.types import (
    IN_SECONDS,
    KIB,
    MIB,
    AuthKinds,
    Bytes,
    CorsOrigins,
    Duration,
    HttpUrl,
    JwksUrl,
    LowerCase,
    Origin,
    Patterns,
    PostgresUrl,
    Seconds,
    is_loopback,
)

SECTIONS: Final = {
    "host": "Where it listens",
    "relay": "The relay",
    "owned": "One owner for each conversation",
    "database_url": "The database",
    "auth": "Who is let in",
    "sse_max_age": "Responses and connections",
    "max_readers": "Limits of each worker",
    "max_appends_per_token": "Limits of each client and tenant, off until they are set",
    "retention": "What the log keeps",
    "flue": "A Flue app",
    "log_level": "Logs and traces",
    "fly_region": "Fly",
}
"""The headings of groups of settings, each under the name of its first field."""


class Settings(BaseSettings):
    """The settings of one Machine. Fields have Python's names; `variable` gives the environment's."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_ignore_empty=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(
        8080,
        ge=0,
        le=65_535,
        description="Port to listen on; 0 picks a free one.",
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65_535, description="Port that serves /metrics instead of PORT, and /ready; 0 picks a free one."
    )
    workers: int = Field(
        1, ge=1, le=64, description="Processes that share the port, one for each core, each a Machine of its own."
    )
    public_url: HttpUrl | None = Field(
        None,
        description="Address under which clients reach this server, for the links that it gives out; when empty, the"
        " host that a request was sent to, and HOST and PORT for webhooks.",
    )
    upstream: Origin | None = Field(
        None,
        description="Origin of the application behind the gateway, which gets every request that is not for the"
        " gateway itself.",
    )

    relay: str | None = Field(
        None,
        description="Presets of the relay with their paths, such as `ai-sdk:/api/chat`, with commas between: requests"
        " to UPSTREAM whose streaming answers are recorded as runs.",
    )
    relay_file: Path | None = Field(None, description="File of the relay's own rows, in TOML.")
    relay_recorders: Origin | None = Field(
        None,
        description="Origin of other Machines of this gateway, which get the POSTs that the relay records; this one"
        " answers who comes back.",
    )
    relay_credential: str | None = Field(
        None,
        description="What of a POST its client has to show again to come back to its answer, with commas between, such"
        " as `header:authorization,cookie:session`, for rows that say nothing of it.",
    )
    relay_lease: Annotated[int, IN_SECONDS] = Field(
        10, ge=2, le=3600, description="Seconds after which a recording whose Machine has died is ended as lost."
    )
    relay_silence: Seconds = Field(
        600.0, description="Seconds that the upstream may be silent in an answer; then its recording is ended as lost."
    )
    relay_rejoin: Seconds = Field(
        30.0,
        description="Seconds in which an upstream that can go on with an answer has to be back, after its connection"
        " was lost; then its recording is ended as lost.",
    )
    relay_max_recordings: int = Field(
        1_000,
        ge=1,
        description="Answers that each worker records at once, whether or not their clients are still there; further"
        " POSTs are answered 503.",
    )
    relay_max_duration: Seconds = Field(
        3600.0, description="Seconds that a recording may last; then it is ended as lost."
    )
    relay_drain: Duration = Field(
        280.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds that recordings have to end after SIGTERM or SIGINT; what is left then is ended as lost.",
    )
    relay_retention: Duration = Field(
        3600.0, gt=0, allow_inf_nan=False, description="Seconds that a recording is kept after its end."
    )

    owned: str | None = Field(
        None,
        description="Paths of conversations at UPSTREAM, with commas between, such as `/agents/chat/{id}`: of each, all"
        " requests reach the one Machine that owns it.",
    )
    advertise: Origin | None = Field(
        None,
        description="Origin at which gateways of other Machines reach this one; when empty, on Fly its private address,"
        " and else HOST and PORT.",
    )
    owned_lease: Seconds = Field(
        10.0,
        ge=1,
        description="Seconds of silence after which other Machines take over what a Machine owns.",
    )
    owned_busy: str | None = Field(
        None,
        min_length=1,
        description="Path below a conversation, such as `busy`, that a draining Machine asks its application for before"
        " it gives the conversation away: 200 while it is worked on.",
    )
    owned_auth: bool = Field(
        False,
        description="Whether requests of conversations need a credential of AUTH, too, `write` for those that write and"
        " else `read`, and each tenant's conversations are its own.",
    )
    owned_drain: Duration = Field(
        280.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds after SIGTERM or SIGINT in which a Machine gives away what it owns, each conversation as"
        " soon as it is idle; then what is open has GATEWAY_DRAIN_TIMEOUT to end.",
    )

    database_url: PostgresUrl | None = Field(
        None,
        repr=False,
        description="Address of the Postgres that holds the log, or of its PgBouncer; when empty, an embedded Postgres"
        " is started.",
    )
    listen_database_url: PostgresUrl | None = Field(
        None,
        repr=False,
        description="Address of the same Postgres past any PgBouncer, for LISTEN; when empty, DATABASE_URL.",
    )
    read_database_url: PostgresUrl | None = Field(
        None,
        repr=False,
        description="Address of a replica of that Postgres near this Machine, a standby by streaming replication: what"
        " it has is read there.",
    )
    require_listen: bool = Field(
        False,
        description="Whether `serve` refuses to start where LISTEN does not work, so that the log would have to be"
        " polled.",
    )
    data_dir: Path = Field(
        Path("./.run-gateway"), description="Folder of the embedded Postgres, made when it is missing."
    )
    migrate: bool = Field(
        True,
        description="Whether `serve` updates the schema of DATABASE_URL; that of an embedded Postgres is always"
        " updated.",
    )
    database_wait: Duration = Field(
        60.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that `serve` and `migrate` try to reach DATABASE_URL at their start before they give up.",
    )
    pool_size: int = Field(
        8, ge=1, le=1000, description="Connections of each worker to the database, besides the one for LISTEN."
    )
    connection_max_age: Seconds = Field(
        600.0, description="Seconds that a connection to the database is used before it is replaced."
    )
    statement_timeout: Seconds = Field(10.0, description="Seconds that one statement may take in the database.")
    append_timeout: Seconds = Field(
        5.0,
        description="Seconds that an append may wait to be sent to the database, and then for its answer; else it is "
        "503.",
    )
    sweep_interval: Seconds = Field(
        1.0, description="Seconds between checks of the log for events that no notification told of."
    )
    poll_interval: Seconds = Field(0.25, description="Seconds between checks of the log while LISTEN does not work.")

    auth: AuthKinds = Field(
        "none", description="Who is let in: `none` for everyone, or the holders of `keys`, `jwt` or `keys,jwt`."
    )
    allow_anonymous: bool = Field(
        False, description="Whether `serve` may listen on more than loopback while AUTH is `none`."
    )
    keys: str | None = Field(
        None, repr=False, description="Keys, separated by spaces, each NAME:SCOPES:SECRET or NAME@TENANT:SCOPES:SECRET."
    )
    keys_file: Path | None = Field(None, description="File of more keys, one a line; SIGHUP has it read again.")
    jwt_secret: str | None = Field(
        None, repr=False, description="Secret of JWTs that are signed with HS256, at least 32 bytes."
    )
    jwt_jwks_url: JwksUrl | None = Field(
        None, description="Address of the public keys of JWTs that are signed with RS256, ES256 or EdDSA."
    )
    jwt_issuer: str | None = Field(
        None, description="Issuer (`iss`) that a JWT must have; needed for GATEWAY_JWT_JWKS_URL."
    )
    jwt_audience: str | None = Field(
        None, description="Audience (`aud`) that a JWT must have; needed for GATEWAY_JWT_JWKS_URL."
    )
    jwt_leeway: Duration = Field(
        10.0, ge=0, le=300, allow_inf_nan=False, description="Seconds that the issuer's clock may differ from ours."
    )
    jwt_scope_claim: str = Field("scope", min_length=1, description="Claim that holds a JWT's scopes.")
    jwt_tenant_claim: str | None = Field(
        None,
        description="Claim that names a JWT's tenant, and then must be there; when empty, all are of the default"
        " tenant.",
    )
    jwt_runs_claim: str = Field(
        "runs",
        min_length=1,
        description="Claim that holds patterns of the runs that a JWT is for; a JWT without it is for all runs.",
    )
    token_ttl: Annotated[int, IN_SECONDS] = Field(
        3600, ge=1, le=30 * 86_400, description="Seconds that a run's token is valid, unless it is asked for less."
    )
    token_secrets: str | None = Field(
        None,
        repr=False,
        description="Secrets that sign runs' tokens, separated by spaces, the newest first; when empty, a key in the"
        " database.",
    )
    public_runs: Patterns | None = Field(
        None,
        description="Patterns of runs, with commas between, such as `live-*`, whose events everybody may read without a"
        " credential, and caches in front keep and share.",
    )
    cors_origins: CorsOrigins | None = Field(
        None,
        description="Origins whose pages may read and write, with commas between, or `*` for all, or `none`; when"
        " empty, `*` while AUTH is none, and else `none`.",
    )
    allow_local_webhooks: bool | None = Field(
        None,
        description="Whether webhooks may be sent to this very host by plain http; when empty, only if HOST is"
        " loopback.",
    )

    sse_max_age: Seconds = Field(
        60.0, description="Seconds after which an SSE response ends cleanly, and its client resumes."
    )
    long_poll_timeout: Seconds = Field(
        20.0, description="Seconds that a long-poll waits for news; proxies often give up after 30."
    )
    heartbeat: Seconds = Field(
        8.0,
        description="Seconds of silence after which an SSE response gets a comment, so that nobody takes it for dead.",
    )
    request_timeout: Seconds = Field(60.0, description="Seconds that a request, its body included, may take to arrive.")
    send_timeout: Seconds = Field(
        120.0, description="Seconds that a client may read nothing of what waits for it; then its connection is cut."
    )
    io_uring: bool = Field(
        True,
        description="Whether a frame goes to many readers in one system call, where Linux lets this process use"
        " io_uring (Docker does not by default).",
    )
    keep_alive: Seconds = Field(75.0, description="Seconds that a connection may wait for its next request.")
    drain_delay: Duration = Field(
        0.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds after SIGTERM or SIGINT in which /ready answers 503 and all else goes on as before, so"
        " that a load balancer turns away before the port closes.",
    )
    drain_timeout: Duration = Field(
        10.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that open responses have to end after SIGTERM or SIGINT.",
    )

    max_readers: int = Field(
        10_000,
        ge=1,
        description="SSE responses, long-polls and waits for a run's end that each worker has open at once; further"
        " ones are answered 503.",
    )
    max_followed: int = Field(
        100_000,
        ge=1,
        description="Streams that each worker follows for responses of /v1/stream, which have up to 1,000 each;"
        " further responses are answered 503.",
    )
    max_connections: int = Field(
        20_000,
        ge=1,
        description="Connections that each worker takes, fewer where there are not the descriptors; on further ones"
        " only /health and /ready are answered, all else is 503.",
    )
    max_reads: int = Field(
        4, ge=1, description="Reads of the log that each worker makes at the same time; others wait, tenants in turn."
    )
    max_lists: int = Field(
        2, ge=1, description="Lists of runs that each worker asks the database for at the same time; a few others wait."
    )
    list_timeout: Seconds = Field(2.0, description="Seconds that the database may take for a list of runs; then 503.")
    page_bytes: Bytes = Field(
        1 * MIB, ge=KIB, le=256 * MIB, description="Bytes of events after which one read of the log stops."
    )
    max_pending: Bytes = Field(
        64 * MIB,
        ge=1,
        le=64 * 1024 * MIB,
        description="Bytes of appends that may wait for the database, and as many that may be arriving; then 429.",
    )
    max_head: Bytes = Field(32 * KIB, ge=KIB, le=MIB, description="Bytes that the request line and headers may have.")
    max_body: Bytes = Field(10 * MIB, ge=1, le=1024 * MIB, description="Bytes that the body of one request may have.")
    max_batch: int = Field(20_000, ge=1, description="Events that one request may append.")
    max_forks: int = Field(10_000, ge=1, description="Forks that one stream may have; further ones are refused, 409.")
    max_fork_depth: int = Field(
        100, ge=1, le=1000, description="Forks of forks of forks … that a chain may have; a longer one is refused, 409."
    )
    max_subscriptions_per_tenant: int = Field(
        1_000,
        ge=1,
        description="Subscriptions that a tenant may have, give or take a few; further ones are refused, 409.",
    )
    max_subscription_changes: int = Field(
        20,
        ge=1,
        description="Changes of its subscriptions that a tenant may make in a second by each worker; then 429.",
    )
    max_event: Bytes = Field(
        MIB, ge=1, description="Bytes that one event may have, or one append to a stream of bytes."
    )

    max_appends_per_token: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Appends a second that one credential may make of each worker."
    )
    max_creates_per_token: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Streams a second that one credential may make by each worker."
    )
    max_streams_per_token: int | None = Field(
        None,
        ge=1,
        description="SSE responses, long-polls and waits for a run's end that one credential may have open at each"
        " worker.",
    )
    max_requests_per_address: int | None = Field(
        None,
        ge=1,
        description="Requests, open streams and those to the application among them, that one client address may have"
        " at each worker.",
    )
    max_runs_per_tenant: int | None = Field(
        None, ge=1, description="Runs that a tenant may have; those made within the last seconds may exceed it."
    )

    retention: Duration | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that a stream is kept after it was closed; when empty, until it is deleted or expires.",
    )
    pack: bool = Field(
        True,
        description=(
            "Whether events are packed into compressed pages: 64 or more of one request at once, others when they are"
            " no longer at the tail of an open stream, or nothing has followed them for some minutes."
        ),
    )
    housekeeping_interval: Seconds = Field(
        15.0, description="Seconds between rounds of packing and removing, which one Machine at a time does."
    )

    flue: bool = Field(
        False, description="Whether runs of a Flue app in the same database are served too, from its own tables."
    )
    flue_workflows: str | None = Field(
        None,
        min_length=1,
        description="Flue workflows whose runs may be read, with commas between; `*` for all.",
    )
    flue_orphan_after: Seconds | None = Field(
        None,
        description="Seconds without a new event after which a Flue run is ended as abandoned; when empty, never.",
    )
    flue_poll_interval: Seconds = Field(
        0.1,
        description="Seconds between checks of what is followed of Flue's runs and conversations, where Flue's tables"
        " have no triggers.",
    )

    flue_agents: str | None = Field(
        None,
        description="Paths at which a Flue 2.x app in the same database mounts its agents, with commas between, such as"
        " `/agents/chat`: each conversation has one owner, as by GATEWAY_OWNED.",
    )
    flue_readers: str | None = Field(
        None,
        description="Version of @flue/runtime in the app of GATEWAY_FLUE_AGENTS, 2.1.0, if every Machine is to answer"
        " readers of conversations from its tables; when empty, they go to the owner.",
    )
    flue_authorization: str | None = Field(
        None,
        repr=False,
        description="`Authorization` with which the gateway asks the Flue 2.x app to go on with what a dead server has"
        " left, where its agents ask for one.",
    )

    log_level: Annotated[Literal["debug", "info", "warning", "error"], LowerCase] = Field(
        "info", description="Least level of what is logged to stderr."
    )
    log_format: Annotated[Literal["auto", "json", "text"], LowerCase] = Field(
        "auto",
        description="Form of the log's lines: json, text, or auto, which is text at a terminal and json elsewhere.",
    )
    access_log: bool = Field(
        False, description="Whether each request is logged when its response has ended, which makes appends slower."
    )
    traces: bool = Field(
        False,
        description="Whether appends and deliveries are traced by OpenTelemetry, as its own variables say; needs the"
        " extra otel.",
    )

    fly_region: str | None = Field(None, description="Region of this Machine, for logs and metrics; Fly sets it.")
    fly_machine_id: str | None = Field(None, description="Fly's name for this Machine; Fly sets it.")
    fly_private_ip: str | None = Field(
        None, description="Address of this Machine in the private network of Fly, which sets it."
    )
    primary_region: str | None = Field(
        None, description="Region where the database is; Fly sets it to its primary_region."
    )
    replay_appends: bool = Field(
        False, description="Whether appends that reach another region are sent to PRIMARY_REGION by Fly's proxy."
    )

    @property
    def place(self) -> dict[str, str]:
        """The name that Fly gives this Machine, for logs and metrics; nothing elsewhere."""
        named = {"region": self.fly_region, "fly_machine": self.fly_machine_id}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def advertised(self) -> str | None:
        """`advertise` as it is meant; None: it has to be HOST and PORT."""
        if self.advertise is None and self.fly_private_ip is not None:
            return f"http://[{self.fly_private_ip}]:{self.port}"
        return self.advertise

    @property
    def recordings(self) -> int:
        """The number of answers that may be recorded at once: none without a relay."""
        return 0 if self.relay is None and self.relay_file is None else self.relay_max_recordings

    @property
    def longest_drain(self) -> float:
        """Seconds that a drain may take: with a relay, as many as its recordings have."""
        return max(self.drain_timeout, self.relay_drain) if self.recordings else self.drain_timeout

    @property
    def handing_over(self) -> float:
        """Seconds before a drain in which conversations are given away: none without them."""
        return self.owned_drain if self.owned or self.flue_agents else 0.0

    @property
    def open_to_all(self) -> bool:
        """True if clients on other hosts could come in without a credential, though no setting allows that."""
        return self.auth == "none" and not self.allow_anonymous and not is_loopback(self.host)

    @property
    def origins(self) -> tuple[str, ...]:
        """`cors_origins` as they are meant: where everyone is let in, so are pages."""
        if self.cors_origins is None:
            return ("*",) if self.auth == "none" else ()
        return () if self.cors_origins == "none" else tuple(self.cors_origins.split(","))

    @property
    def local_webhooks(self) -> bool:
        """`allow_local_webhooks` as it is meant: who listens for this host alone is at home, and may call itself."""
        return is_loopback(self.host) if self.allow_local_webhooks is None else self.allow_local_webhooks

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
        return init_settings, Environment(settings_cls)
