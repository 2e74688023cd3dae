"""Every metric: its name, its help, and where its value is found.

To add one: keep an int, or something of `gateway.counting`, in the room that knows; add a line here, and the table in
the manual (`python -m gateway.metrics.catalogue` prints it). Nothing is counted here, and the database is never asked.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, Protocol

from gateway.counting import Histogram, together
from gateway.fanout.hub import Hub
from gateway.http import responses
from gateway.http.appends import Appends
from gateway.http.limits import LiveReaders
from gateway.http.reading import Reading
from gateway.log.database import Database
from gateway.log.listener import Listener
from gateway.log.log import Log
from gateway.log.writer import Writer
from gateway.runs.leases import LeaseWatch
from gateway.subscriptions import Subscriptions

if TYPE_CHECKING:
    from gateway.flue.conversations.conversations import Conversations
    from gateway.owner.flue.agents import Agents
    from gateway.owner.owner import Owner
    from gateway.relay.relay import Relay

PREFIX: Final = "run_gateway_"

Value = float | Mapping[str, float | str] | Histogram | None
"""A number; or numbers by the values of the metric's label; or the labels of an info; None: not known at the moment."""


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Source(Protocol):
    """A log that is read. `reads` counts the pages."""

    @property
    def reads(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a Machine that count. Of those that exist once for each log, its own comes first, then Flue's.

    `machine`: the labels of `run_gateway_machine_info`.
    """

    machine: Mapping[str, str]
    database: Database
    log: Log
    writer: Writer
    appends: Appends
    listener: Listener
    readers: LiveReaders
    hubs: Sequence[Hub]
    readings: Sequence[Reading]
    sources: Sequence[Source]
    leases: LeaseWatch
    subscriptions: Subscriptions
    relay: Relay | None = None
    owner: Owner | None = None
    agents: Agents | None = None
    conversations: Conversations | None = None


@dataclass(frozen=True, slots=True)
class Metric:
    """A family. `name` lacks the prefix and the suffix of its kind; `label` is the name of its only label, if any."""

    name: str
    kind: Kind
    help: str
    read: Callable[[Parts], Value]
    label: str | None = None

    @property
    def full_name(self) -> str:
        """The name to query: histograms have `_bucket`, `_sum` and `_count` besides."""
        return PREFIX + self.name + {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(self.kind, "")


def _followers(hubs: Sequence[Hub]) -> dict[str, int]:
    states = Counter[str]()
    for hub in hubs:
        states.update(hub.followers)
    return {"following": states["following"], "catching_up": states["catching_up"]}


METRICS: Final = (
    # Appends
    Metric(
        "appends",
        Kind.COUNTER,
        "Appends asked of the log, by outcome: appended, duplicate, refused, unknown (503).",
        lambda parts: parts.writer.outcomes,
        "outcome",
    ),
    Metric("appended_events", Kind.COUNTER, "Events appended.", lambda parts: parts.writer.events),
    Metric("appended_bytes", Kind.COUNTER, "Bytes of events appended.", lambda parts: parts.writer.bytes),
    Metric(
        "appends_together",
        Kind.HISTOGRAM,
        "Appends in one POST to /v1/appends; its count is that of these requests.",
        lambda parts: parts.appends.sizes,
    ),
    Metric(
        "commit_requests",
        Kind.HISTOGRAM,
        "Appends in one commit; its count is that of the commits.",
        lambda parts: parts.writer.commit_requests,
    ),
    Metric(
        "commit_duration_seconds",
        Kind.HISTOGRAM,
        "Seconds from sending a commit to its acknowledgement by Postgres.",
        lambda parts: parts.writer.commit_seconds,
    ),
    Metric(
        "append_pending_bytes",
        Kind.GAUGE,
        "Bytes of appends that wait for a commit to take them.",
        lambda parts: parts.writer.pending_bytes,
    ),
    # Readers
    Metric(
        "readers",
        Kind.GAUGE,
        "Open live reads, by mode: sse, long_poll, many (responses that follow many streams).",
        lambda parts: {
            "sse": parts.readers.sse.count,
            "long_poll": parts.readers.long_polls.count,
            "many": parts.readers.many.count,
        },
        "mode",
    ),
    Metric(
        "followed_streams",
        Kind.GAUGE,
        "Streams that are followed by responses that follow many.",
        lambda parts: parts.readers.followed,
    ),
    Metric(
        "followers",
        Kind.GAUGE,
        "Live readers by state: following their tail, or catching_up (new, or slower than their stream).",
        lambda parts: _followers(parts.hubs),
        "state",
    ),
    Metric(
        "io_uring",
        Kind.GAUGE,
        "1 while a frame goes to many readers in one system call, 0 while it goes to one after the other.",
        lambda parts: int(parts.hubs[0].broadcast.at_once),
    ),
    Metric(
        "tails",
        Kind.GAUGE,
        "Streams that have a reader here.",
        lambda parts: sum(len(hub.tails) for hub in parts.hubs),
    ),
    Metric(
        "deliveries",
        Kind.COUNTER,
        "Frames written to followers' sockets.",
        lambda parts: sum(hub.delivered for hub in parts.hubs),
    ),
    Metric(
        "delivery_duration_seconds",
        Kind.HISTOGRAM,
        "Seconds from learning of a commit (its own, or by news) to having written it to all its followers' sockets.",
        lambda parts: together([hub.delivery_seconds for hub in parts.hubs]),
    ),
    Metric(
        "catch_ups",
        Kind.COUNTER,
        "Reads answered at once with what there was.",
        lambda parts: sum(reading.catch_ups for reading in parts.readings),
    ),
    Metric(
        "log_reads",
        Kind.COUNTER,
        "Pages read from the log.",
        lambda parts: sum(source.reads for source in parts.sources),
    ),
    Metric(
        "near_reads",
        Kind.COUNTER,
        "Reads of pages, records and lists where READ_DATABASE_URL is set, by where: replica, primary.",
        lambda parts: None if parts.log.near is None else parts.log.near.reads,
        "where",
    ),
    Metric(
        "replica_used",
        Kind.GAUGE,
        "1: the replica is used, and has caught up with all that is known here; 0: all is read at the primary.",
        lambda parts: None if parts.log.near is None else parts.log.near.replica.used,
    ),
    Metric(
        "joined_reads",
        Kind.COUNTER,
        "Reads that shared a page with others who asked for it.",
        lambda parts: sum(hub.read.joined for hub in parts.hubs) + sum(reading.joined for reading in parts.readings),
    ),
    Metric(
        "memory_reads",
        Kind.COUNTER,
        "Live readers who began without a read of the log.",
        lambda parts: sum(hub.remembered for hub in parts.hubs),
    ),
    # News
    Metric(
        "listening",
        Kind.GAUGE,
        "1: news of other Machines arrives by LISTEN; 0: it is polled for.",
        lambda parts: parts.listener.news == "listen",
    ),
    Metric(
        "listener_losses",
        Kind.COUNTER,
        "Listening connections lost after they worked.",
        lambda parts: parts.listener.lost,
    ),
    Metric(
        "notifications_heard",
        Kind.COUNTER,
        "Notifications of other Machines.",
        lambda parts: parts.listener.heard,
    ),
    Metric(
        "hints_heard",
        Kind.COUNTER,
        "Notifications on the channel that everybody may notify on, upon which the log is looked at.",
        lambda parts: parts.listener.hints,
    ),
    Metric(
        "notification_queue_usage_ratio",
        Kind.GAUGE,
        "Part of the database's notification queue in use, 0 to 1, as of the last heartbeat.",
        lambda parts: parts.listener.queue_usage,
    ),
    Metric(
        "missed_news",
        Kind.COUNTER,
        "Streams that the sweep found behind the log, of which no notification had told.",
        lambda parts: sum(hub.comparison.missed for hub in parts.hubs),
    ),
    Metric(
        "lost_runs",
        Kind.COUNTER,
        "Runs that this Machine has ended because their producer gave no sign of life within its lease.",
        lambda parts: parts.leases.ended,
    ),
    # The relay
    Metric(
        "recordings",
        Kind.GAUGE,
        "Answers of the upstream that are being recorded.",
        lambda parts: None if parts.relay is None else len(parts.relay.recorders),
    ),
    Metric(
        "recordings_without_readers",
        Kind.GAUGE,
        "Recordings that nobody follows at this Machine.",
        lambda parts: None if parts.relay is None else parts.relay.unread,
    ),
    Metric(
        "recorded_frames",
        Kind.COUNTER,
        "Frames of the upstream that were recorded.",
        lambda parts: None if parts.relay is None else parts.relay.counts.frames,
    ),
    Metric(
        "recorded_bytes",
        Kind.COUNTER,
        "Bytes of frames that were recorded.",
        lambda parts: None if parts.relay is None else parts.relay.counts.bytes,
    ),
    Metric(
        "record_delay_seconds",
        Kind.HISTOGRAM,
        "Seconds from a frame's arrival to its commit, of the oldest frame of each append.",
        lambda parts: None if parts.relay is None else parts.relay.counts.delay,
    ),
    Metric(
        "ended_recordings",
        Kind.COUNTER,
        "Recordings that this Machine has ended before the upstream did, by why: lost, stopped, left.",
        lambda parts: None if parts.relay is None else parts.relay.counts.ended,
        "why",
    ),
    Metric(
        "rejoined_recordings",
        Kind.COUNTER,
        "Recordings that went on at this Machine after their connection to the upstream, or their Machine, was lost.",
        lambda parts: None if parts.relay is None else parts.relay.rejoined,
    ),
    Metric(
        "unrecorded_posts",
        Kind.COUNTER,
        "POSTs to a path that is recorded which were passed on all the same: without a key, too large, or compressed.",
        lambda parts: None if parts.relay is None else parts.relay.counts.unrecorded,
    ),
    # Owners of conversations
    Metric(
        "owned_requests",
        Kind.COUNTER,
        "Requests of conversations, by way: local, relayed (to the owner), replayed (by Fly's proxy), received (from"
        " another gateway).",
        lambda parts: None if parts.owner is None else parts.owner.counts.routed,
        "way",
    ),
    Metric(
        "owner_takes",
        Kind.COUNTER,
        "Conversations that this Machine has taken, by from whom: nobody, dead (a life that had ended).",
        lambda parts: None if parts.owner is None else parts.owner.counts.takes,
        "of",
    ),
    Metric(
        "owner_waits",
        Kind.COUNTER,
        "Times that a request waited for news of its owner.",
        lambda parts: None if parts.owner is None else parts.owner.counts.waits,
    ),
    Metric(
        "owner_late_writes",
        Kind.COUNTER,
        "Writes that were kept from the application, since this Machine was no longer sure to be the owner.",
        lambda parts: None if parts.owner is None else parts.owner.counts.late,
    ),
    Metric(
        "owner_lives",
        Kind.COUNTER,
        "Lives that this Machine has begun: more than one means a lease that passed, or another process of the"
        " application.",
        lambda parts: None if parts.owner is None else parts.owner.lives.begun,
    ),
    Metric(
        "owner_deaths",
        Kind.COUNTER,
        "Other Machines that this one has found silent for their lease.",
        lambda parts: None if parts.owner is None else parts.owner.lives.dead,
    ),
    Metric(
        "owner_handed_over",
        Kind.COUNTER,
        "Conversations that this Machine has given away as it drained.",
        lambda parts: None if parts.owner is None else parts.owner.handing.given,
    ),
    Metric(
        "owner_revived",
        Kind.COUNTER,
        "Conversations that were busy when their owner died, and go on at this Machine.",
        lambda parts: None if parts.owner is None else parts.owner.inheriting.revived,
    ),
    Metric(
        "owner_machines",
        Kind.GAUGE,
        "Other Machines with lives that have not ended.",
        lambda parts: None if parts.owner is None else len(parts.owner.lives.others),
    ),
    Metric(
        "flue_submissions_left",
        Kind.GAUGE,
        "Submissions of the Flue 2.x app that nobody has worked on for 20 s: their leases passed so long ago.",
        lambda parts: None if parts.agents is None or parts.agents.recovery is None else parts.agents.recovery.late,
    ),
    Metric(
        "flue_wakes",
        Kind.COUNTER,
        "Times that the Flue 2.x app of this Machine was asked to go on with what a dead server has left, and did.",
        lambda parts: None if parts.agents is None else parts.agents.waker.woken,
    ),
    Metric(
        "flue_passed_on",
        Kind.COUNTER,
        "Conversations that this Machine has passed on to another one, since its Flue 2.x app had begun to run them.",
        lambda parts: None if parts.agents is None or parts.agents.following is None else parts.agents.following.passed,
    ),
    Metric(
        "flue_reads",
        Kind.COUNTER,
        "Reads of the Flue 2.x app's conversations that came here, by what has answered them: rows, app.",
        lambda parts: None if parts.conversations is None else parts.conversations.readers.answered,
        "by",
    ),
    # Subscriptions
    Metric(
        "webhook_attempts",
        Kind.COUNTER,
        "Attempts to deliver a wake to a webhook, by outcome: taken, done, failed.",
        lambda parts: parts.subscriptions.attempts,
        "outcome",
    ),
    Metric(
        "unwritten_wakes",
        Kind.COUNTER,
        "Tries to write a wake to its wake stream that failed; it is tried again.",
        lambda parts: parts.subscriptions.unwritten,
    ),
    # The database
    Metric(
        "pool_connections",
        Kind.GAUGE,
        "Connections of the pool, by state: busy (a writer's are, always), idle.",
        lambda parts: parts.database.connections,
        "state",
    ),
    Metric("pool_limit", Kind.GAUGE, "Connections that the pool may have.", lambda parts: parts.database.size),
    Metric(
        "pool_wait_seconds",
        Kind.HISTOGRAM,
        "Seconds that work waited for a connection of the pool.",
        lambda parts: parts.database.waits,
    ),
    Metric(
        "log_epoch",
        Kind.GAUGE,
        "The log's epoch: it goes up when another database server takes over, by a random step.",
        lambda parts: None if parts.database.server is None else parts.database.server.epoch,
    ),
    Metric(
        "database_switches",
        Kind.COUNTER,
        "Times that another database server was found to have taken over.",
        lambda parts: parts.database.switches,
    ),
    Metric(
        "missing_events",
        Kind.COUNTER,
        "Events shown here to followers that the server which took over does not have.",
        lambda parts: parts.log.missing_events,
    ),
    Metric(
        "lost_offsets",
        Kind.COUNTER,
        "Reads refused (410) because the log does not have their offset, or has it no more.",
        lambda parts: parts.log.reader.gone,
    ),
    # The Machine
    Metric(
        "refusals",
        Kind.COUNTER,
        "Requests refused, by the type that the body names.",
        lambda parts: responses.refused,
        "type",
    ),
    Metric("draining", Kind.GAUGE, "1: this Machine is shutting down.", lambda parts: parts.hubs[0].draining),
    Metric(
        "build",
        Kind.INFO,
        "Versions of the gateway and of Python.",
        lambda parts: {"version": version("run-gateway"), "python": platform.python_version()},
    ),
    Metric(
        "machine", Kind.INFO, "What this Machine is called, on Fly with its region and id.", lambda parts: parts.machine
    ),
)


def table() -> str:
    """The metrics as the Markdown table that stands in the manual."""
    lines = ["| metric | kind | what it is |", "|---|---|---|"]
    for metric in METRICS:
        label = "" if metric.label is None else f"{{{metric.label}}}"
        lines.append(f"| `{metric.full_name}{label}` | {metric.kind.value} | {metric.help} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
