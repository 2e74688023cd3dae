"""The promise: what a reader was given is the log, once, in order, whatever happened in between."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fanout.simulation import Simulation


@settings(max_examples=400)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 150))
def test_every_reader_is_given_exactly_the_log_and_then_its_end(seed: int, steps: int) -> None:
    simulation = Simulation(seed)
    asyncio.run(simulation.run(steps))
    log = list(range(1, len(simulation.log.events) + 1))
    for reader in simulation.readers:
        assert reader.given == log[reader.start :], f"{reader.mode} reader"
        assert reader.ended
