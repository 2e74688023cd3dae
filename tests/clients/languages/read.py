"""A run with Python's standard library alone: python read.py URL prints its events, one a line, to its end."""

import http.client
import sys
import time
import urllib.request

at = ""
while True:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": at} if at else {})
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{sys.argv[1]}?named=false", headers=headers), timeout=30
        ) as answer:
            if answer.status == 204:
                sys.exit()  # it came back to the end
            frame: dict[str, str] = {}
            for line in answer:
                name, _, value = line.decode().rstrip("\n").partition(":")
                if name:
                    frame[name] = value.removeprefix(" ")
                    continue
                at = frame.get("id", at)
                if "event" not in frame and "data" in frame:
                    print(frame["data"], flush=True)
                if frame.get("event") == "control" and '"streamClosed":true' in frame["data"]:
                    sys.exit()
                frame = {}
    except (OSError, http.client.HTTPException):
        pass  # the connection was lost: the next one goes on behind the last event
    time.sleep(0.2)
