"""People and agents at a gateway, each checking the continuity of what it reads: a load test that does not is a heater.

    locust -f loadtests/people/locustfile.py --headless -u 200 -r 20 -t 2m --host http://127.0.0.1:8080
    … --host http://a:8080,http://b:8080              each user picks a gateway; who comes back picks another
    … --master / --worker --master-host <address>     locust's own: runs are announced to every worker, wherever it is

Under the type CONTINUITY stands every fault of the gateway's, of which there must be none; DELIVERY is the time from
an event's being sent until a reader has it, which needs the clocks of both to agree. The exit code is 1 if anything
failed.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from typing import Any

from locust import User, constant, events, task
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.people.continuity import Batch, Broken, Watch, batches
from loadtests.people.wire import FAULTS, Refused, Wire

TOKENS = int(os.environ.get("LOAD_TOKENS", "400"))  # in a run, on average
PACE = float(os.environ.get("LOAD_PACE", "40"))  # tokens a second
STORM_EVERY = float(os.environ.get("LOAD_STORM_EVERY", "20"))  # seconds between storms
FOREVER = float("inf")
WORDS = ["", "the", "of", "and", "a", "run", "token", "stream", "is", "to", "model", "that", "it", "was", "in"]

live: list[str] = []  # the runs being written, anywhere


def announce(environment: Environment, run: str, alive: bool) -> None:
    """Tells everybody, everywhere, that a run is there, or that it has ended."""
    _hear(run, alive)
    if isinstance(environment.runner, WorkerRunner | MasterRunner):
        environment.runner.send_message("run", {"run": run, "alive": alive})


def _hear(run: str, alive: bool) -> None:
    if alive and run not in live:
        live.append(run)
    elif not alive and run in live:
        live.remove(run)


def _listen(environment: Environment, **_: Any) -> None:
    runner = environment.runner

    def heard(environment: Environment, msg: Any, **_: Any) -> None:
        _hear(msg.data["run"], msg.data["alive"])
        if isinstance(runner, MasterRunner):
            runner.send_message("run", msg.data)  # to all workers, as a worker cannot

    if isinstance(runner, WorkerRunner | MasterRunner):
        runner.register_message("run", heard)


_init: Any = events.init  # locust's own types end here
_init.add_listener(_listen)


class Visitor(User):
    """Somebody with a connection to one of the gateways."""

    abstract = True
    wait_time = constant(0)

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        hosts = str(environment.host or self.host).rstrip("/").split(",")
        self._hosts = random.sample(hosts, len(hosts))
        self.wire = Wire(environment, self._hosts[0])

    def move(self) -> None:
        """To another gateway, where there is one."""
        self.wire.close()
        self._hosts.append(self._hosts.pop(0))
        self.wire = Wire(self.environment, self._hosts[0])

    def on_stop(self) -> None:
        self.wire.close()


class AgentServer(Visitor):
    """Creates a run, streams tokens at a model's speed, closes it. What is not acknowledged is sent again, to whoever
    answers; the producer's sequence makes it count once."""

    weight = 3

    @task
    def work(self) -> None:
        run, total = f"load-{uuid.uuid4().hex[:12]}", max(2, int(random.expovariate(1 / TOKENS)))
        self._send(run, "PUT", "create", None, {"Content_Type": "application/json"})
        announce(self.environment, run, True)
        try:
            for n in range(total):
                time.sleep(random.expovariate(PACE))
                event = {"run": run, "n": n, "at": time.time(), "text": random.choice(WORDS)}
                self._send(run, "POST", "append", event, _producer(run, n))
            event = {"run": run, "n": total, "at": time.time(), "end": True}
            self._send(run, "POST", "close", event, _producer(run, total) | {"Stream_Closed": "true"})
        finally:
            announce(self.environment, run, False)

    def _send(self, run: str, method: str, name: str, event: dict[str, Any] | None, headers: dict[str, str]) -> None:
        body = json.dumps(event).encode() if event else b""
        while True:
            try:
                self.wire.call(name, method, f"/runs/{run}", body, **headers)
                return
            except (Refused, *FAULTS) as error:
                if isinstance(error, Refused) and error.status < 500 and error.status != 429:
                    raise
            self.move()
            time.sleep(random.uniform(0.2, 1))


def _producer(run: str, n: int) -> dict[str, str]:
    producer = {"Producer_Id": f"agent-{run}", "Producer_Epoch": "0", "Producer_Seq": str(n)}
    return {"Content_Type": "application/json", **producer}


class Reader(Visitor):
    """Reads a run from its start to its end, however often it has to come back."""

    abstract = True
    _came = 0.0  # when this visit began

    @task
    def read(self) -> None:
        if not live:
            time.sleep(0.2)
            return
        watch = Watch(random.choice(live))
        try:
            while not watch.closed:
                try:
                    self._came = time.time()
                    self.visit(watch)
                except (Refused, *FAULTS):
                    self.move()
                    time.sleep(random.uniform(0.1, 0.5))
        except Broken as error:
            self.wire.count("CONTINUITY", type(self).__name__, 0, error)
        else:
            self.wire.count("CONTINUITY", type(self).__name__, 0)

    def visit(self, watch: Watch) -> None:
        """Reads on from where the watch stands, until this connection's end."""
        raise NotImplementedError

    def follow(self, watch: Watch, until: float) -> None:
        """SSE until the run's end, the response's, or a moment of the monotonic clock."""
        path = f"/runs/{watch.run}?offset={watch.offset}&live=sse"
        for batch in batches(self.wire.lines("follow", path, until)):
            self.take(watch, batch, "SSE")

    def take(self, watch: Watch, batch: Batch, mode: str) -> None:
        """Checks; what was written before this visit is history, and no delivery."""
        watch.take(batch)
        now = time.time()
        for event in batch.events:
            if event["at"] > self._came:
                self.wire.count("DELIVERY", mode, max(now - event["at"], 0) * 1000)


class Viewer(Reader):
    """Watches a run in a browser's tab, over SSE."""

    weight = 6

    def visit(self, watch: Watch) -> None:
        self.follow(watch, FOREVER)


class Poller(Reader):
    """Watches a run by long-poll."""

    weight = 2

    def visit(self, watch: Watch) -> None:
        cursor = f"&cursor={watch.cursor}" if watch.cursor else ""
        live = "" if watch.read == 0 else f"&live=long-poll{cursor}"  # as the protocol's clients do: catch up first
        answer = self.wire.call("poll" if live else "catch up", "GET", f"/runs/{watch.run}?offset={watch.offset}{live}")
        headers = answer.headers
        batch = Batch(
            json.loads(answer.body) if answer.body else [],
            headers["stream-next-offset"],
            headers.get("stream-cursor"),
            headers.get("stream-closed") == "true" and (answer.status == 204 or "stream-up-to-date" in headers),
        )
        self.take(watch, batch, "long-poll")
        if not batch.events and not live:
            time.sleep(0.1)


class Resumer(Reader):
    """Drops in the middle, anywhere, and comes back a little later at another gateway."""

    weight = 3

    def visit(self, watch: Watch) -> None:
        self.follow(watch, time.monotonic() + random.uniform(0.2, 5))
        self.move()
        time.sleep(random.uniform(0, 2))


class Storm(Reader):
    """Drops when all of its kind drop, everywhere, and is back at once: as if a Machine had been lost."""

    weight = 3

    def visit(self, watch: Watch) -> None:
        self.follow(watch, time.monotonic() + STORM_EVERY - time.time() % STORM_EVERY)
        self.move()
