"""The run gateway. A § in a comment is a section of PROTOCOL.md of durable-streams/durable-streams, unless it names
another document. A law is one of these, by its number:

1. Durable before visible: no reader is shown an event whose transaction has not committed.
2. The log is the truth, a notification a hint: without any, readers are late, never wrong.
3. A reader is never advanced past bytes that it was not sent; "closed" is read before or with the events.
4. Listen, then read: a reader is registered for wake-ups before its first read.
5. Order is per stream, made under its row's lock: the order of commits is that of the numbers.
6. One slow reader costs nobody anything: nothing is queued for it, it falls back to reading the log.
7. A connection of the pool is never held while a reader waits.
8. Every limit has a name and a clear refusal; nobody who is connected is evicted to make room.
9. An ending says what it is, and ends cleanly: a client's own library resumes from it, or stops at it.
"""
