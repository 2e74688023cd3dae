"""`python -m loadtests.siege.burner SHARE SECONDS`: takes this share of a processor, and nothing else.

What attackers take of the processors for themselves slows everybody down, whatever the Machines do about attacks. A
siege measures beside burners too, niced as attackers are, so that one can be told from the other.
"""

from __future__ import annotations

import os
import sys
import time

from loadtests.siege.orders import NICE

STEP = 0.01  # seconds that it computes or sleeps at a time


def burn(share: float, seconds: float) -> None:
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        if time.process_time() < share * passed:
            until = time.monotonic() + STEP
            while time.monotonic() < until:
                pass
        else:
            time.sleep(STEP)


if __name__ == "__main__":
    os.nice(NICE)
    burn(float(sys.argv[1]), float(sys.argv[2]))
