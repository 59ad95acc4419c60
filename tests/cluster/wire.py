"""A wire with a delay: two network interfaces, and a process that hands frames from one to the
other once they are old enough. Kernels without `netem` have nothing else that delays.

`python wire.py SECONDS NAME NAME` makes the interfaces, says so in a line, and they go with it.
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF, _TAP, _BARE_FRAMES = 0x400454CA, 0x0002, 0x1000
_FRAME = 2**16


class End:
    """An interface, and the frames that came in there and wait to leave by the other one."""

    def __init__(self, name: str) -> None:
        self.file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(
            self.file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP | _BARE_FRAMES)
        )
        self.waiting: deque[tuple[float, bytes]] = deque()

    def take(self, due: float) -> None:
        try:
            while True:
                self.waiting.append((due, os.read(self.file, _FRAME)))
        except (BlockingIOError, OSError):
            return  # no more, or the interface is down: its frames are lost, as on a wire

    def give(self, frame: bytes) -> None:
        try:
            os.write(self.file, frame)
        except OSError:
            return


def carry(ends: tuple[End, End], delay: float) -> None:
    there, back = ends
    while True:
        dues = [end.waiting[0][0] for end in ends if end.waiting]
        patience = max(0.0, min(dues) - time.monotonic()) if dues else None
        readable, _, _ = select.select([end.file for end in ends], [], [], patience)
        now = time.monotonic()
        for end, other in ((there, back), (back, there)):
            if end.file in readable:
                end.take(now + delay)
            while end.waiting and end.waiting[0][0] <= now:
                other.give(end.waiting.popleft()[1])


if __name__ == "__main__":
    made = (End(sys.argv[2]), End(sys.argv[3]))
    print("made", flush=True)
    carry(made, float(sys.argv[1]))
