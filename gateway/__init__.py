"""The run gateway. A § in a comment is a section of PROTOCOL.md of durable-streams/durable-streams, unless it names
another document. A law, by its number, is one of those in README.md beside this file, which draws the way of an event.
"""
