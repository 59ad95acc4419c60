"""What rank processes, and runs and jobs that are killed, have imported: once for all of them."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"

import torch._dynamo  # noqa: E402, F401

import data_tools.derive  # noqa: E402, F401
import data_tools.shard  # noqa: E402, F401
import hvdm.checkpoint.bucket  # noqa: E402, F401
import hvdm.run.run  # noqa: E402, F401
import launcher.workers.cluster  # noqa: E402, F401
import tests.support.toys  # noqa: E402, F401
from hvdm.train import zero  # noqa: E402

zero.preload()
