"""Runs: streams at `runs/<id>` with a record, an end that comes even when the producer is lost, and a control stream.

Rooms: `requests` and `ids` are pure; `store` is the database; `leases` is what a Machine does by itself; `streams` and
`routes` are HTTP; `face` is what the application uses. Events, their order and their readers are the log's and the
fan-out's: a run is a stream, and there is no second path.
"""

from gateway.runs.face import Runs

__all__ = ["Runs"]
