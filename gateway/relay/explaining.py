"""The words for what a row will do, for `run-gateway relay check` and `try`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.relay.rows import Rejoin, Row


def explain(row: Row) -> list[tuple[str, str]]:
    """Explains a row: pairs of a subject and the words."""
    media = "text/event-stream" if row.frames == "sse" else "NDJSON"
    starts = " and ".join(str(pattern) for pattern in row.start)
    when = "".join(f", {name} is {value!r}" for name, value in row.when.items())
    said = [("records", f"the {media} answer to {starts}{when}"), ("key", _key(row))]
    said += [("back by", f"{way}: {_from(row)}") for way in map(str, row.resume)]
    if row.ids:
        said.append(
            ("ids", "in each frame with data; a GET or POST with one in Last-Event-ID gets what comes after it")
        )
    if row.resume:
        idle = "the upstream is asked" if row.idle == "pass" else f"the answer is {row.idle}"
        ends = "as long as a run is kept" if row.grace is None else f"up to {row.grace:g} s after its end"
        said.append(("when", f"while it runs and {ends}; after that {idle}"))
    said.append(("stop", "none of its own" if row.stop is None else f"{row.stop}, last frame {_frame(row.stopped)}"))
    if row.cancel is not None:
        said.append(("cancel", f"{row.cancel}, which the upstream is asked as its run is stopped"))
    if row.rejoin is not None:
        said.append(("rejoin", _rejoin(row.rejoin)))
    said.append(("lost", f"last frame {_frame(row.lost)}"))
    said.append(("leave", _leave(row)))
    said.append(("readers", _readers(row)))
    return said


def _key(row: Row) -> str:
    if row.key is None:
        return "none: the run's own id"
    where = f"{row.key}"
    if not row.key.in_request:
        return f"{where}, known as soon as the upstream has answered"
    what = "a GET" if row.by_get else "a POST"
    without = "is recorded under its run's id" if row.keyless else "is passed on"
    if row.attach:
        return f"{where}; {what} without it {without}, and one with a known key is given that run's answer"
    return f"{where}; {what} without it {without}, and each with it starts a run: the newest is come back to"


def _from(row: Row) -> str:
    if row.cursor is not None:
        return f"from {row.cursor}, or else from the start"
    return "from its id, or else from the start" if row.ids else "everything from the start"


def _rejoin(rejoin: Rejoin) -> str:
    last = {"id": "its own id", "frames": "their number"}.get(rejoin.last.by, rejoin.last.field)
    kept = f", with {_list(rejoin.send)}, kept until its end" if rejoin.send else ""
    return f"{rejoin.ask} asks the upstream for the rest, {rejoin.by} names the last frame by {last}{kept}"


def _leave(row: Row) -> str:
    if row.leave == "continue":
        return "a run that nobody reads goes on to its end"
    whose = "a run" if row.leave == "cancel" else f"a run whose {row.leave.partition(':')[2]} is cancel"
    return f"{whose} is stopped after {row.leave_after:g} s without any reader"


def _readers(row: Row) -> str:
    if row.authorize is not None:
        return f"whom the upstream lets in at {row.authorize}"
    if row.credential:
        return f"who has the same {_list([str(source) for source in row.credential])}"
    return "who has the gateway's own credential; without AUTH whoever knows the key, on loopback alone"


def _frame(text: str) -> str:
    return repr(text)[1:-1] if text else "none"


def _list(words: Sequence[str]) -> str:
    return " and ".join(words)
