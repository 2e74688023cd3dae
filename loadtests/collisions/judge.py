"""Where the log's answers and what it holds break its rules. Pure: all that it knows is a history.

Events have names that nobody gives twice. So the log itself tells in which order requests took effect, and each answer
is compared with that order, as a ledger's entries are with the sum: an unknown outcome has either happened or not.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TypeVar

from gateway.log.appends import Appended
from gateway.protocol.append import AppendRequest, Producer
from loadtests.collisions.findings import (
    ALTERED,
    CLOSED,
    DEADLOCKS,
    FORKS,
    HOLES,
    INVENTED,
    LEASES,
    LINKS,
    LOST,
    OFFSETS,
    PRODUCERS,
    RECORDS,
    REORDERED,
    REPEATED,
    WRONG,
)  # fmt: skip
from loadtests.collisions.history import (
    APPEND,
    APPENDED,
    CANCEL,
    CREATE,
    DUPLICATE,
    FOUND,
    LEASE,
    LOST_RUN,
    READ,
    UNKNOWN,
    Call,
    History,
    Link,
    Settled,
    is_run,
)  # fmt: skip
from loadtests.collisions.presence import Presence
from loadtests.survival.ledger import Findings
from tests.log.producer_model import ModelStream

_CORRUPTED, _DEADLOCK = "XX001", "40P01"
_JSON = "application/json"
_Item = TypeVar("_Item", Call, Link, Settled)


@dataclass
class Stream:
    """One of the streams that were at a path: what its readers have seen of it, together."""

    id: int
    path: str
    reads: list[Call] = field(default_factory=list)
    events: dict[int, str] = field(default_factory=dict)
    inherited: int = 0

    @property
    def own(self) -> list[tuple[int, str]]:
        """What was appended to itself, in order."""
        return [(seq, name) for seq, name in sorted(self.events.items()) if seq > self.inherited]


def judge(history: History) -> Findings:
    """Everything that is wrong."""
    findings = Findings()
    for state, what in history.faults:
        kind = {_DEADLOCK: DEADLOCKS, _CORRUPTED: HOLES}.get(state, WRONG)
        findings.add(kind, f"{what} was answered with SQLSTATE {state}")
    paths: defaultdict[str, list[Call]] = defaultdict(list)
    requests: defaultdict[int, list[Call]] = defaultdict(list)
    for call in history.calls:
        paths[call.path].append(call)
        if call.what == APPEND:
            requests[call.request].append(call)
    presence = {
        path: Presence(path, calls, history.breaks) for path, calls in paths.items() if not path.endswith("/control")
    }
    for each in presence.values():
        findings.include(each.judge())
    streams = _streams(findings, history.calls)
    _inherit(findings, streams, history.calls)
    where = _places(findings, streams)
    for stream in streams:
        _judge_tails(findings, stream)
        _judge_events(findings, stream, requests, paths[stream.path])
        _judge_producers(findings, stream, requests)
    _judge_acks(findings, history.calls, streams, where, presence)
    _judge_claims(findings, paths)
    _judge_cancels(findings, paths, streams)
    _judge_links(findings, history, presence)
    return findings


def _streams(findings: Findings, calls: Iterable[Call]) -> list[Stream]:
    found: dict[int, Stream] = {}
    for read in calls:
        if read.what != READ or read.verdict != FOUND or read.id is None:
            continue
        stream = found.setdefault(read.id, Stream(read.id, read.path))
        stream.reads.append(read)
        for seq, name in enumerate(read.given, read.start + 1):
            if stream.events.setdefault(seq, name) != name:
                findings.add(ALTERED, f"{read.path}: number {seq} is {stream.events[seq]} and {name}")
    return list(found.values())


def _inherit(findings: Findings, streams: Sequence[Stream], calls: Iterable[Call]) -> None:
    """A fork has what its source had, up to where it was made."""
    forks = {call.path: call for call in calls if call.what == CREATE and call.source is not None}
    for stream in streams:
        fork = forks.get(stream.path)
        if fork is None:
            continue
        stream.inherited = fork.anchor
        head = {seq: name for seq, name in stream.events.items() if seq <= fork.anchor}
        for source in streams:
            # Which of those that were at its source's path one after the other, its events tell.
            if source.path == fork.source and not set(head.values()).isdisjoint(source.events.values()):
                strange = [seq for seq, name in head.items() if source.events.get(seq, name) != name]
                findings.add(FORKS, f"{stream.path}: number {strange[:1]} is not that of {fork.source}", len(strange))


def _places(findings: Findings, streams: Sequence[Stream]) -> dict[str, tuple[Stream, int]]:
    """Where each event is."""
    where: dict[str, tuple[Stream, int]] = {}
    for stream in streams:
        for seq, name in stream.own:
            if not name[0].isdigit():
                continue
            if name in where:
                findings.add(
                    REPEATED,
                    f"{stream.path}: {name} is number {seq}, and {where[name][1]} of stream {where[name][0].id}",
                )
            where[name] = stream, seq
    return where


def _judge_tails(findings: Findings, stream: Stream) -> None:
    """What was seen of a stream before is never more than what is seen later."""
    reads = stream.reads
    for read in reads:
        if len(read.given) > max(read.tail - read.start, 0):
            findings.add(
                OFFSETS, f"{stream.path}: a reader was given {len(read.given)} events from {read.start} to {read.tail}"
            )
    before = _latest_before(reads, lambda read: read.tail)
    closed = _latest_before(reads, lambda read: int(read.closed))
    for read, tail, ended in zip(reads, before, closed, strict=True):
        if read.tail < tail:
            findings.add(OFFSETS, f"{stream.path}: its tail went back from {tail} to {read.tail}")
        if ended > 0 and not read.closed:
            findings.add(CLOSED, f"{stream.path}: was closed, and is open again")
    final = min((read.tail for read in reads if read.closed), default=None)
    beyond = [seq for seq in stream.events if final is not None and seq > final]
    findings.add(CLOSED, f"{stream.path}: was closed at {final} and has number {max(beyond, default=0)}", len(beyond))


def _judge_events(findings: Findings, stream: Stream, requests: dict[int, list[Call]], calls: Sequence[Call]) -> None:
    """Each event was sent to this stream, each request is whole, and what was answered before comes before."""
    newest = 0.0
    lost = [name for _, name in stream.own if name.startswith(LOST_RUN)]
    if lost and (len(lost) > 1 or stream.own[-1][1] != lost[0]):
        findings.add(LEASES, f"{stream.path}: was ended by its lease {len(lost)} times, or went on after it")
    end = datetime.fromisoformat(lost[0].removeprefix(LOST_RUN)).timestamp() if lost else None
    for number, group in groupby(
        ((seq, name) for seq, name in stream.own if name[0].isdigit()), key=lambda place: int(place[1].split(".")[0])
    ):
        places = list(group)
        sent = [
            call
            for call in requests.get(number, ())
            if call.path == stream.path and call.verdict in (APPENDED, UNKNOWN)
        ]
        if not sent:
            findings.add(INVENTED, f"{stream.path}: request {number} is in the log, and was not accepted")
            continue
        base = places[0][0] - int(places[0][1].partition(".")[2])
        if any(stream.events.get(base + n, name) != name for n, name in enumerate(sent[0].events)):
            findings.add(HOLES, f"{stream.path}: request {number} is torn apart")
        if max(call.ended for call in sent) < newest:
            findings.add(
                REORDERED, f"{stream.path}: request {number} stands behind one that was sent after it had been answered"
            )
        newest = max(newest, min(call.began for call in sent))
        if end is not None:
            for call in sent:
                if call.verdict == APPENDED and end < call.life + LEASE - 0.002:
                    findings.add(
                        LEASES,
                        f"{stream.path}: ended {end - call.life:.3f} s after a sign of life, by a lease of {LEASE} s",
                    )
    closers = [
        call for call in calls if call.what == APPEND and call.closes and call.verdict in (APPENDED, UNKNOWN, DUPLICATE)
    ]
    if not closers and not is_run(stream.path.removesuffix("/control")) and any(read.closed for read in stream.reads):
        findings.add(CLOSED, f"{stream.path}: nobody has closed it, and it is closed")


def _judge_producers(findings: Findings, stream: Stream, requests: dict[int, list[Call]]) -> None:
    """In the order in which the log took them, the model takes each request, too."""
    model = ModelStream(_JSON)
    for expected, (seq, name) in enumerate(stream.own, stream.inherited + 1):
        if seq != expected:
            return  # nobody has seen what is in between
        number, _, ordinal = name.partition(".")
        if not number.isdigit() or ordinal != "0":
            continue
        sent = [call for call in requests.get(int(number), ()) if call.path == stream.path]
        if not sent:
            continue
        producer = None if sent[0].claim is None else Producer(*sent[0].claim)
        # Events without a name, for it is only asked whether it takes them.
        request = AppendRequest(stream.path, _JSON, [b""] * sent[0].count, sent[0].closes, None, producer)
        outcome = model.append(request)
        if not isinstance(outcome, Appended) or outcome.duplicate:
            findings.add(PRODUCERS, f"{stream.path}: took {sent[0].claim} of request {number}, which the model refuses")
            return


def _judge_acks(
    findings: Findings, calls: Iterable[Call], streams: Sequence[Stream], where: dict[str, tuple[Stream, int]],
    presence: dict[str, Presence],
) -> None:  # fmt: skip
    """What was acknowledged is there, where it was said to be, and every reader that came later has found it."""
    reads: defaultdict[str, list[Call]] = defaultdict(list)
    for stream in streams:
        reads[stream.path] += stream.reads
    for each in reads.values():
        each.sort(key=lambda read: read.began)
    known = {stream.id: stream for stream in streams}
    for call in calls:
        if call.what != APPEND or call.verdict != APPENDED or not call.count:
            continue
        for seq, name in enumerate(call.events, call.tail - call.count + 1):
            if name in where and where[name][1] != seq:
                findings.add(OFFSETS, f"{call.path}: {name} was said to be number {seq}, and is {where[name][1]}")
        later = reads[call.path]
        at = bisect.bisect_left(later, call.ended, key=lambda read: read.began)
        for read in (*later[at : at + 4], *later[-1:]):
            if read.began < call.ended or presence[call.path].may_go(call.began, read.ended):
                continue
            held = None if read.id is None else known[read.id].events.get(call.tail)
            if read.tail < call.tail or held not in (None, call.events[-1]):
                findings.add(
                    LOST, f"{call.path}: {call.events[-1]} was acknowledged as number {call.tail} and is not there"
                )
                break


def _judge_claims(findings: Findings, paths: dict[str, list[Call]]) -> None:
    """Nobody's request is a repetition, nor his epoch over, where nobody else has sent such a thing."""
    for path, calls in paths.items():
        sent = defaultdict(list)
        for call in calls:
            if call.what == APPEND and call.claim is not None:
                sent[call.claim[0]].append((call, *call.claim[1:]))
        for same in sent.values():
            for call, epoch, seq in same:
                if call.verdict not in (DUPLICATE, "stale_epoch"):
                    continue
                others = [place for other, *place in same if other is not call and other.began < call.ended]
                if call.verdict == DUPLICATE and not any(e == epoch and s >= seq for e, s in others):
                    findings.add(
                        PRODUCERS, f"{path}: {call.claim} is the first of its kind, and was called a repetition"
                    )
                if call.verdict != DUPLICATE and not any(e > epoch for e, _ in others) and not is_run(path):
                    findings.add(PRODUCERS, f"{path}: {call.claim} was called stale, and nobody has a later epoch")


def _judge_cancels(findings: Findings, paths: dict[str, list[Call]], streams: Sequence[Stream]) -> None:
    """A run is asked to stop once, and from then on each of its appends is told so."""
    for path, calls in paths.items():
        asked = [call for call in calls if call.what == CANCEL and call.verdict in ("requested", "known")]
        since = min((call.ended for call in asked), default=None)
        untold = [
            call for call in calls
            if since is not None and call.what == APPEND and call.verdict == APPENDED
            and call.began > since and call.cancelled is False
        ]  # fmt: skip
        findings.add(RECORDS, f"{path}: was asked to stop, and an append was not told", len(untold))
        again = sum(call.verdict == "requested" for call in asked) - 1
        findings.add(RECORDS, f"{path}: was asked to stop more than once", max(again, 0))
    for stream in streams:
        if stream.path.endswith("/control") and list(stream.events.values()).count("cancel") > 1:
            findings.add(RECORDS, f"{stream.path}: holds more than one cancel")


def _judge_links(findings: Findings, history: History, presence: dict[str, Presence]) -> None:
    """An acked position never goes back, and is only moved by whoever has the lease."""
    seen = defaultdict(list)
    for link in history.links:
        seen[link.path, link.stream].append(link)
    for (path, _), links in seen.items():
        for link, acked in zip(links, _latest_before(links, lambda link: link.acked), strict=True):
            findings.add(
                LINKS, f"{path}: its acked position went back from {acked} to {link.acked}", int(link.acked < acked)
            )
    by_path = defaultdict(list)
    for link in sorted(history.links, key=lambda link: link.began):
        by_path[link.path].append(link)
    for settled in history.settled:
        for path, position in settled.acks:
            links = by_path[path]
            at = bisect.bisect_left(links, settled.ended, key=lambda link: link.began)
            if (
                at < len(links)
                and links[at].acked < position
                and not presence[path].may_go(settled.began, links[at].ended)
            ):
                findings.add(LINKS, f"{path}: {position} was acked, and {links[at].acked} is what is known of it")
    grants = _latest_before(history.settled, lambda call: call.generation if call.granted else 0)
    for call, newest in zip(history.settled, grants, strict=True):
        if call.generation < newest:
            findings.add(LINKS, f"generation {call.generation} acked after {newest} had been given to somebody")


def _latest_before(items: Sequence[_Item], value: Callable[[_Item], int]) -> list[int]:
    """For each of these, the greatest value of those that had ended before it began."""
    ended = sorted(items, key=lambda item: item.ended)
    ends, greatest = [item.ended for item in ended], [-1]
    for item in ended:
        greatest.append(max(greatest[-1], value(item)))
    return [greatest[bisect.bisect_left(ends, item.began)] for item in items]
