"""What can be found to be wrong with the log, by name; those of the survival harness, and some more."""

from __future__ import annotations

from loadtests.survival.ledger import INVENTED, LOST, OFFSETS, REORDERED, REPEATED, WRONG

ALTERED = "altered"  # one position, two events
HOLES = "holes"  # numbers that no event has, or requests that are torn apart
RISEN = "came back"  # seen again after it had expired or was gone
CLOSED = "closed"  # took something, or opened again, or was closed by nobody
PRODUCERS = "producer rules"
FORKS = "forks"  # do not hold what their source had, or are miscounted
LEASES = "leases"  # ended twice, too early, or never
LINKS = "links"  # of subscriptions: missing, gone back, or moved by whoever had lost the lease
RECORDS = "records"  # of runs, and their control streams
DEADLOCKS = "deadlocks"  # that reached a caller
HOUSEKEEPING = "housekeeping"  # that does not go on
KINDS = (
    LOST, REPEATED, REORDERED, INVENTED, ALTERED, HOLES, OFFSETS, RISEN, CLOSED, PRODUCERS, FORKS, LEASES, LINKS,
    RECORDS, DEADLOCKS, HOUSEKEEPING, WRONG,
)  # fmt: skip
__all__ = (
    "ALTERED", "CLOSED", "DEADLOCKS", "FORKS", "HOLES", "HOUSEKEEPING", "INVENTED", "KINDS", "LEASES", "LINKS", "LOST",
    "OFFSETS", "PRODUCERS", "RECORDS", "REORDERED", "REPEATED", "RISEN", "WRONG",
)  # fmt: skip
