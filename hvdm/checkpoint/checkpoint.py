"""Checkpoints that any engine reads at any world size, and that are whole or not there.

`checkpoints/step-00000010/` holds safetensors files, one for each network, group (weights,
optimizer, ema, buffers) and rank, with tensors named `KIND/PARAMETER@OFFSET`: slices of flattened
fp32 vectors. KIND is `master`, `ema`, `buffer`, or a name of the optimizer's state. Writing is in
`writing` and `saver`, what to read in `choosing`, reading in `reading`, where in `storage`, what
may go in `retention`; the names that others need are here.
"""

from hvdm.checkpoint.choosing import (
    Checkpoint,
    choose,
    damage,
    every_file,
    listed,
    newest_valid,
    of_step,
    shared_damage,
)
from hvdm.checkpoint.reading import (
    Reader,
    check_fits,
    check_rest,
    for_inference,
    hashes,
    restore,
    weights,
)
from hvdm.checkpoint.saver import Saver, save
from hvdm.checkpoint.storage import MANIFEST
from hvdm.checkpoint.writing import name_of, save_weights

__all__ = [
    "MANIFEST",
    "Checkpoint",
    "Reader",
    "Saver",
    "check_fits",
    "check_rest",
    "choose",
    "damage",
    "every_file",
    "for_inference",
    "hashes",
    "listed",
    "name_of",
    "newest_valid",
    "of_step",
    "restore",
    "save",
    "save_weights",
    "shared_damage",
    "weights",
]
