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


def test_what_a_larger_outage_explains_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    sea = Outage(logger, "The sea is away (%s).", "The sea is back.")
    ship = Outage(logger, "The ship waits (%s).", "The ship sails.", within=sea)
    with caplog.at_level(logging.INFO, logger="tests.outage"):
        ship.begin("ebb")  # the first to notice
        sea.begin("ebb")
        ship.begin("ebb")
        assert ship.lasts
        sea.end()
        ship.end()
        assert not ship.lasts
        assert caplog.messages == ["The sea is away (ebb).", "The sea is back."]
        caplog.clear()
        for _ in range(3):
            ship.begin("mutiny")
        ship.end()
        assert caplog.messages == ["The ship waits (mutiny).", "The ship sails."]
