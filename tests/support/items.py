"""What workers do with an item, in tests of what becomes of it: nothing heavy is imported here."""

import os
import signal
from typing import NoReturn

from hvdm.errors import RunError


def kill(item: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("alive")


def refuse(item: object) -> NoReturn:
    raise RunError(f"not_a_number {item}: not every value is finite")
