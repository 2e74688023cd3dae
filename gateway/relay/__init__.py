"""The relay: answers of the application behind the gateway are recorded as runs, so that clients find back to them.

`README.md` beside this file is for operators who put it before an application; each file opens with what it is for.
"""
