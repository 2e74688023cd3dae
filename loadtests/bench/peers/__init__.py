"""Those who are compared, by name."""

from __future__ import annotations

from loadtests.bench.peers.bare_asgi import BareAsgi
from loadtests.bench.peers.direct import Flue, Insert, Notify
from loadtests.bench.peers.fastapi_queue import FastApiQueue
from loadtests.bench.peers.floor import Floor
from loadtests.bench.peers.gateway import Gateway, GatewayByPosts, GatewayOfTwo
from loadtests.bench.peers.nats_jetstream import NatsAlways, NatsDefault
from loadtests.bench.peers.nchan import Nchan
from loadtests.bench.peers.peer import Peer
from loadtests.bench.peers.redis_streams import RedisAlways, RedisEverySecond
from loadtests.bench.peers.reference import ReferenceFiles, ReferenceMemory

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Gateway,
        Floor,
        Nchan,
        FastApiQueue,
        ReferenceMemory,
        ReferenceFiles,
        RedisAlways,
        RedisEverySecond,
        NatsAlways,
        NatsDefault,
        BareAsgi,
        Insert,
        Flue,
        Notify,
        GatewayOfTwo,
        GatewayByPosts,
    )
}
