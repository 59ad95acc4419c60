"""Named places of a save at which a test may kill the process: HVDM_FAULT=POINT[:RANK[:STEP]]."""

import os
import signal

from hvdm import dist

VARIABLE = "HVDM_FAULT"

POINTS = {
    "begun": True,
    "copied": True,
    "file-begun": True,
    "file-half": True,
    "file-sealed": True,
    "files-done": True,
    "manifest-written": False,
    "renamed": False,
    "replaced": False,
    "committed": False,
    "latest-written": False,
    "trash-renamed": False,
    "noticed": True,
}
"""Whether every rank comes by, or the first one only."""


def reach(point: str, step: int) -> None:
    """Ends the process by SIGKILL where the variable says so; otherwise nothing."""
    assert point in POINTS, point
    wanted = os.environ.get(VARIABLE, "").split(":")
    here = [point, str(dist.rank()), str(step)]
    if all(w in ("", h) for w, h in zip(wanted, here)) and wanted[0]:
        os.kill(os.getpid(), signal.SIGKILL)
