"""What the demonstration's two sides agree on: the order, its result and the slow part.

Apart from the program itself, so that whoever drives it does not define its workflow.
"""

from __future__ import annotations

RUN_ID = "order-A-17"
RESULT = "A-17 is on its way: PARCEL-A-17"
PARTS = 4  # things to be packed
SLOW_PART = 3  # the one that takes very long in a process that is to be killed
SLOW_SECONDS = 60.0
