"""Runs: streams at `runs/<id>` with a record, an end that comes even when the producer is lost, and a control stream.

Rooms: `bodies` and `queries` are pure; `store` and `quota` ask the database; `leases` is what a Machine does by
itself; `run_routes`, `run_collection` and `tokens` are HTTP; `foreign_runs` is the port for another system's runs;
`runs` is what the application uses. A run's events, their order and their readers are those of its stream: `log` and
`fanout` know nothing of runs.
"""

from gateway.runs.runs import Runs

__all__ = ["Runs"]
