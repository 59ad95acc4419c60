"""Processes that end with the one that started them."""

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import pytest

from hvdm.data.child import end_with_parent

PARENT = """
import os, sys
from multiprocessing import get_context
from multiprocessing.connection import Connection
from tests.data.test_child import stay
pipe = Connection(int(sys.argv[2]))
get_context("spawn").Process(target=stay, args=(pipe, sys.argv[1])).start()
os._exit(0) if sys.argv[1] == "late" else pipe.poll(60)
"""


def stay(pipe: Connection, when: str) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    while when == "late" and os.getppid() == parent.pid:
        time.sleep(0.01)
    end_with_parent()
    pipe.send("here")
    time.sleep(60)


@pytest.mark.processes
@pytest.mark.parametrize("when, said", [("early", ["here"]), ("late", [])])
def test_a_process_ends_with_its_parent_however_early_that_ends(when: str, said: list[str]) -> None:
    ours, theirs = multiprocessing.Pipe()
    command = [sys.executable, "-c", PARENT, when, str(theirs.fileno())]
    with subprocess.Popen(command, pass_fds=[theirs.fileno()]) as parent:
        theirs.close()
        heard = []
        if when == "early":
            heard.append(ours.recv())
            parent.kill()
        with pytest.raises(EOFError):  # nobody is left to hold the other end
            heard.append(ours.recv() if ours.poll(50) else "it lives on")
        assert heard == said
