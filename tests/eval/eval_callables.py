"""Functions that make clips, as a user would write them."""

import os
import signal
from pathlib import Path

import torch

from data_tools.synthetic.rendering import render


def shapes(seed, indices):
    return torch.stack([torch.from_numpy(render(seed, i, 6, 32, 32).video) for i in indices])


def in_zero_to_one(seed, indices):
    return torch.rand((len(indices), 3, 6, 32, 32))


def up_to_255(seed, indices):
    return torch.rand((len(indices), 3, 6, 32, 32)) * 255


def not_a_number(seed, indices):
    video = torch.rand((len(indices), 3, 6, 32, 32)) * 2 - 1
    video[[i == 5 for i in indices], :, 2] = float("nan")
    return video


def one_too_few(seed, indices):
    return shapes(seed, indices)[:0]


def broken(seed, indices):
    raise KeyError("weights")


def killed_once(seed, indices):
    """The worker that comes to clip 9 first is killed, as by the kernel."""
    marker = Path(os.environ["EVAL_TEST_MARKER"])
    if 9 in indices and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return shapes(seed, indices)
