"""The Durable Streams protocol as pure functions and values: no I/O, clock, randomness or framework.

Values are frozen, but for those that are made for every append: to make a frozen one takes three times as long.
"""
