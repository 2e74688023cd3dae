"""The promise: what a reader was given is the log, once, in order, whatever happened in between."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import tasks
from gateway.protocol import frames
from gateway.protocol.batch import Encoding
from tests.fanout.simulation import Simulation


@settings(max_examples=400)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 150))
def test_every_reader_is_given_exactly_the_log_and_then_its_end(seed: int, steps: int) -> None:
    play(seed, steps)


def play(seed: int, steps: int) -> None:
    simulation = Simulation(seed)
    asyncio.run(simulation.run(steps))
    log = list(range(1, len(simulation.log.events) + 1))
    for reader in simulation.readers:
        assert reader.given == log[reader.start :], f"{reader.mode} reader"
        assert reader.ended


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), steps=st.integers(5, 120))
def test_who_waits_for_long_frames_is_given_exactly_the_log(seed: int, steps: int) -> None:
    """They are made in several turns of the loop, while news, readers and losses go on."""
    with (
        patch.multiple(frames, LONG=0, PIECE=3),
        patch.dict(frames.LONG_FOR_ALL, {Encoding.JSON: 0}),
        patch.object(tasks, "WOKEN", 2),
    ):
        play(seed, steps)
