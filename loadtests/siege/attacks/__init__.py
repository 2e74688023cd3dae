"""The abuses, by the rows of issue 13: each is a coroutine that goes on until its time is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from loadtests.siege.attacks import connections, log, readers, subscriptions
from loadtests.siege.attacks.assault import Assault

Attack = Callable[[Assault], Awaitable[None]]

ATTACKS: Mapping[int, Sequence[Attack]] = {
    5: (connections.pipeline, connections.wait_and_leave),
    6: (log.chain_forks, log.fork_many),
    7: (subscriptions.watch_everything, subscriptions.feed_watchers),
    8: (subscriptions.hang_webhooks, subscriptions.name_nobody),
    9: (readers.read_nothing,),
    10: (log.nest,),
    11: (log.find_nothing,),
    12: (connections.sit, connections.trickle, connections.lengthen, connections.call_back, connections.pretend),
    13: (connections.babble,),
}

TITLES: Mapping[int, str] = {
    5: "pipelining, and waiting with more behind",
    6: "forks of forks that expire",
    7: "`**` subscriptions over many streams",
    8: "webhooks that hang or do not resolve",
    9: "readers that read nothing",
    10: "nested JSON of 10 MB",
    11: "lists that find nothing",
    12: "floods of connections, bodies and addresses",
    13: "what would be logged",
}
