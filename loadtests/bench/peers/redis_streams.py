"""Redis Streams behind FastAPI, with an append-only file: flushed before each answer, or once a second."""

from __future__ import annotations

from typing import ClassVar

from loadtests.bench.peers.bridged import Bridged


class RedisAlways(Bridged):
    """Equally durable: an event is on disk before it is acknowledged."""

    name = "redis"
    title = "Redis Streams + FastAPI, appendfsync always"
    program = "redis-server"
    package = "redis-server"
    library = "redis"
    store_class = "redis_store:RedisStore"
    appendfsync: ClassVar[str] = "always"

    def store_command(self) -> list[str]:
        return [
            self.program, "--port", str(self.store_port), "--bind", "127.0.0.1", "--dir", str(self.folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", self.appendfsync, "--maxclients", "20000",
        ]  # fmt: skip


class RedisEverySecond(RedisAlways):
    """Less durable: when the machine loses its power, a second of what was acknowledged is lost, or two."""

    name = "redis-everysec"
    title = "Redis Streams + FastAPI, appendfsync everysec (less durable)"
    appendfsync = "everysec"
