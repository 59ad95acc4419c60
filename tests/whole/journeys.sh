#!/usr/bin/env bash
# A first use, as it is typed: own videos to a report, a family from its scaffold to an evaluation,
# and Python. Ends at the first command that fails; what it prints is to be read.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export PYTHONPATH=$here HVDM_CACHE=$out/cache
cd "$out"

hvdm() {
    printf '\n$ hvdm %s\n' "$*"
    "$python" -m launcher.cli "$@"
}

printf '\n== own videos to a report\n'
mkdir videos
"$python" - <<'PYTHON'
from pathlib import Path

import numpy as np
import torch

from hvdm.media.pictures import write_mp4

random = np.random.default_rng(0)
for number in range(6):
    film = np.repeat(random.integers(0, 256, (1, 8, 10, 3), np.uint8), 48, 0).repeat(8, 1)
    film = np.stack([np.roll(frame, 2 * at, 1) for at, frame in enumerate(film.repeat(8, 2))])
    write_mp4(torch.from_numpy(film), Path(f"videos/{number}.mp4"), 12)
PYTHON
hvdm data shard source=videos out=datasets/mine height=32 width=32 clip_frames=16 test=0.3 \
    per_shard=4 scenes=false
hvdm data verify datasets/mine full=true
run=(run=runs/mine data.path=datasets/mine cluster=inline)
hvdm train config=tiny/hvdm_autoencoder "${run[@]}" batch=4 micro_batch=4 steps=8 \
    checkpoint.every=16 held_out.every=16 held_out.clips=4
hvdm evaluate runs/mine protocol=reconstruction@1 clips=4 cluster=inline
hvdm evaluate runs/mine protocol=reconstruction@1 clips=4 cluster=inline
hvdm report runs/mine

printf '\n== a family from its scaffold to an evaluation\n'
hvdm data synthetic out=datasets/shapes train=32 test=16
hvdm new family shining
export PYTHONPATH=$here:$out/shining
hvdm train config=shining/shining.yaml cluster=inline steps=8 checkpoint.every=32 \
    preview.every=64
hvdm sample run=runs/shining count=2
hvdm sample run=runs/shining count=2 heat=0.5
hvdm evaluate runs/shining protocol=fvd/tf-reference@1 detector=untrained clips=8 frames=8 \
    cluster=inline
hvdm report runs/shining

printf '\n== Python\n'
"$python" - <<'PYTHON'
import numpy as np

import hvdm

loaded = hvdm.load("runs/mine")
print(loaded)
clip = np.zeros((8, 32, 32, 3), np.uint8)
print(loaded.autoencoder.encode(clip).shape)
print(hvdm.load("runs/shining").sample(2, heat=0.5).shape)
try:
    loaded.autoencoder.encode(clip.astype(np.float32) + 255)
except hvdm.errors.UserError as error:
    print(error)
PYTHON
printf '\nall journeys ended well\n'
