"""Trouble that lasts is told once, when it begins and when it is over."""

from __future__ import annotations

import logging

import pytest

from gateway.outage import Outage

logger = logging.getLogger("tests.outage")


def test_each_outage_is_two_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage(logger, "The sea is away (%s).", "The sea is back.")
    with caplog.at_level(logging.INFO, logger="tests.outage"):
        outage.end()
        for reason in ("ebb", "ebb", "wind"):
            outage.begin(reason)
            assert outage.lasts
        outage.end()
        outage.end()
        assert not outage.lasts
        outage.begin("moon")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "The sea is away (ebb)."),
        ("INFO", "The sea is back."),
        ("WARNING", "The sea is away (moon)."),
    ]
