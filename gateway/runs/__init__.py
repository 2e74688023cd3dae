"""Runs: streams at `runs/<id>` with a record, an end that comes even when the producer is lost, and a control stream.

Rooms: `bodies`, `queries` and `ids` are pure; `store` and `quota` ask the database; `leases` is what a Machine does by
itself; `streams`, `routes` and `tokens` are HTTP; `others` is the port for another system's runs; `facade` is what the
application uses. A run's events, their order and their readers are those of its stream: `log` and `fanout` know
nothing of runs.
"""

from gateway.runs.facade import Runs

__all__ = ["Runs"]
