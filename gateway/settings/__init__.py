"""The settings, read once from the environment and frozen.

It knows names, types, bounds and words for people. It opens nothing and checks nothing outside itself: whether a
database answers or a port is free is for the parts that use it.
"""

from gateway.settings.environment import variable
from gateway.settings.loading import BadSetting, load
from gateway.settings.model import Settings

__all__ = ["BadSetting", "Settings", "load", "variable"]
