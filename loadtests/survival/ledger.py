"""What was written, what the log holds, what each reader was given, and where these differ. Pure: no sockets, no clock.

Events are numbered by their writer. The log is what counts: a reader must have been given exactly it, and the log must
hold what its writer was told that it holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

LOST = "lost"  # acknowledged and not in the log, or in the log and not given
REPEATED = "repeated"
REORDERED = "reordered"
INVENTED = "invented"  # given, and not in the log; or in the log, and never sent
EARLY = "early ends"  # told that the stream has ended, and it had not
OFFSETS = "wrong offsets"  # went back, or stood for two places
STUCK = "stuck"  # a reader or a writer that did not come to its end
CUT_OFF = "cut off"  # responses that broke off in the middle of a deploy
WRONG = "wrong answers"  # statuses that no fault excuses
EXITS = "wrong exits"  # of Machines: by themselves, too late, or with an exit code
OWNERS = "two owners"  # writes to a conversation that reached an application which did not own it
GROWTH = "growth"  # of a Machine's memory or descriptors
KINDS = (LOST, REPEATED, REORDERED, INVENTED, EARLY, OFFSETS, STUCK, CUT_OFF, WRONG, EXITS, OWNERS, GROWTH)

STRANGE = -1  # the number of what is no event of this run
LAST = -2  # of what the gateway appends to a run whose writer has died


@dataclass
class Written:
    """A writer's account. `hands`: the events that were acknowledged to each of those who write at the same time, of
    whom everybody sends the next when the last one was answered.
    """

    run: str
    hands: list[list[int]]
    sent: int = 0  # events 0, 1, …
    ending: bool = False  # the request that closes the stream has been sent
    dies: bool = False  # instead of that, and leaves the end to its lease


@dataclass
class Read:
    """A reader's account. `places`: every offset that it was told, with how many events it had been given by then."""

    mode: str
    given: list[int] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    ended: bool = False
    early: bool = False  # it was told the end before the writer had asked for it
    whole: bool = True  # it began at the beginning


@dataclass
class Findings:
    """Violations by kind, with a sentence for the first ones."""

    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, note: str, count: int = 1) -> None:
        if count:
            self.counts[kind] += count
            self.notes.append(note)

    def include(self, other: Findings) -> None:
        self.counts += other.counts
        self.notes += other.notes


def judge(log: Read, written: Written, readers: Iterable[Read]) -> Findings:
    """Everything that is wrong with one run. `log` is what a reader was given that came after its end."""
    findings = Findings()
    _judge_log(findings, log, written)
    findings.include(judge_readers(written.run, log, readers))
    return findings


def judge_readers(run: str, log: Read, readers: Iterable[Read]) -> Findings:
    """Where readers were given something else than the log."""
    findings = Findings()
    known: dict[str, int] = {}
    for reader in (log, *sorted(readers, key=lambda reader: not reader.whole)):
        before = 0 if reader.whole else _before(log.given, known, reader)
        _judge_reader(findings, f"{run}, a reader by {reader.mode}", log, before, reader)
        _judge_places(findings, run, known, [(offset, before + count) for offset, count in reader.places])
    return findings


def _before(log: Sequence[int], known: Mapping[str, int], reader: Read) -> int:
    """How many events of the log came before the first of a reader that began in the middle.

    Its first offset tells, if that is known from somebody who has read from the beginning on.
    """
    if not reader.places:
        return len(log)
    offset, count = reader.places[0]
    if offset in known:
        return known[offset] - count
    return log.index(reader.given[0]) if reader.given and reader.given[0] in log else len(log)


def _judge_log(findings: Findings, log: Read, written: Written) -> None:
    held = Counter(log.given)
    lost = [n for hand in written.hands for n in hand if n not in held]
    findings.add(LOST, f"{written.run}: acknowledged and not in the log: {_some(lost)}", len(lost))
    twice = [n for n, count in held.items() if count > 1]
    findings.add(REPEATED, f"{written.run}: more than once in the log: {_some(twice)}", len(twice))
    strange = [n for n in held if not (0 <= n < written.sent or (n == LAST and written.dies))]
    findings.add(INVENTED, f"{written.run}: in the log and never sent: {_some(strange)}", len(strange))
    unsaid = written.dies and log.given[-1:] != [LAST]
    findings.add(LOST, f"{written.run}: ended without a last event for its dead writer", int(unsaid))
    # What was not acknowledged and not sent again may land late, behind what was sent after it.
    late: list[int] = []
    for hand in map(set, written.hands):
        order = [n for n in log.given if n in hand]
        late += [after for before, after in pairwise(order) if after < before]
    findings.add(REORDERED, f"{written.run}: in the log after a later one: {_some(late)}", len(late))


def _judge_reader(findings: Findings, who: str, truth: Read, before: int, reader: Read) -> None:
    log = truth.given[before:]
    if reader.ended and (reader.early or reader.places[-1][0] != _end(truth)):
        findings.add(EARLY, f"{who}: told the end after {len(reader.given)} events of {len(log)}")
    if not reader.ended:
        findings.add(STUCK, f"{who}: came to {len(reader.given)} events of {len(log)}, and not to the end")
    if reader.given == log:
        return
    index = {n: at for at, n in enumerate(log)}
    seen: set[int] = set()
    furthest, repeated, reordered, invented = -1, [], [], []
    for n in reader.given:
        if n not in index:
            invented.append(n)
        elif n in seen:
            repeated.append(n)
        else:
            seen.add(n)
            if index[n] < furthest:
                reordered.append(n)
            furthest = max(furthest, index[n])
    lost = [n for n in log if n not in seen and (reader.ended or index[n] < furthest)]
    findings.add(LOST, f"{who}: not given {_some(lost)}", len(lost))
    findings.add(REPEATED, f"{who}: given again {_some(repeated)}", len(repeated))
    findings.add(REORDERED, f"{who}: given late {_some(reordered)}", len(reordered))
    findings.add(INVENTED, f"{who}: given, and not in the log: {_some(invented)}", len(invented))


def _end(log: Read) -> str | None:
    """Its offset, if it could be read at all."""
    return log.places[-1][0] if log.places else None


def _judge_places(findings: Findings, run: str, known: dict[str, int], places: Sequence[tuple[str, int]]) -> None:
    for (before, had), (offset, count) in pairwise(places):
        if offset < before or (offset == before) != (count == had):  # they compare bytewise (§8)
            findings.add(OFFSETS, f"{run}: {count - had} events brought a reader from {before} to {offset}")
            return
    for offset, count in places:
        if known.setdefault(offset, count) != count:
            findings.add(OFFSETS, f"{run}: {offset} stands for {known[offset]} and for {count} events")
            return


def _some(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown}, … ({len(numbers)})" if len(numbers) > 5 else shown
