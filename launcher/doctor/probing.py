"""Checks that load other people's libraries, each in a process of its own: one may crash."""

import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from hvdm.errors import RunError, UserError
from launcher.doctor.checks import GIB, Line

CUDNN = 91500
"""The first one without the slow bf16 Conv3d of pytorch issues 166122, 166643 and 169175."""


def probe(name: str, timeout_s: int = 120) -> list[Line]:
    """Runs the probe elsewhere; whatever happens there is a line."""
    command = [sys.executable, "-m", "launcher.doctor.probing", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        remedy = f"see where it hangs: {' '.join(command)}"
        return [Line(name, "failed", f"no answer within {timeout_s} s", remedy)]
    answers = [line for line in done.stdout.splitlines() if line.startswith('[{"name"')]
    if answers:
        return [Line(**row) for row in json.loads(answers[-1])]
    last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no word"])[-1]
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    return [Line(name, "failed", f"{last} ({ended})", f"all of it: {' '.join(command)}")]


def gpu() -> list[Line]:
    return [*_gpus(), *_cudnn()]


def _gpus() -> list[Line]:
    import torch

    if not torch.cuda.is_available():
        if Path("/proc/driver/nvidia/version").exists():
            text = "there is an NVIDIA driver, and torch sees no GPU"
            remedy = "nvidia-smi; a driver for CUDA " + str(torch.version.cuda) + " or later"
            return [Line("gpu", "failed", text, remedy)]
        return [Line("gpu", "ok", "none: runs on the CPU (cluster.gpus_per_worker=0)")]
    lines = []
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{index}: {found.name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        lines.append(Line("gpu", "ok", f"{text}, sm_{found.major}{found.minor}"))
    return [*lines, _computes()]


def _computes() -> Line:
    import torch

    began = time.monotonic()
    value = float(torch.ones(256, 256, device="cuda").matmul(torch.ones(256, 256).cuda()).sum())
    assert value == 256.0**3
    return Line("gpu", "ok", f"computes ({time.monotonic() - began:.1f} s to start)")


def _cudnn() -> list[Line]:
    """The one that is loaded: a package that is installed may lie behind another in the path."""
    import torch

    loaded = torch.backends.cudnn.version()
    if loaded is None:
        return []
    text = f"{loaded // 10000}.{loaded // 100 % 100}.{loaded % 100}"
    if loaded >= CUDNN:
        return [Line("cudnn", "ok", text)]
    slow = f"{text}: Conv3d in bf16 is several times slower and heavier on a GPU than with 9.15"
    return [Line("cudnn", "warning", slow, _replace_cudnn(str(torch.version.cuda)))]


def _replace_cudnn(cuda: str) -> str:
    package = f"nvidia-cudnn-cu{cuda.partition('.')[0]}"
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        installed = "0"
    if tuple(map(int, installed.split(".")[:2])) >= (9, 15):
        return f"{package} {installed} is there, and another is found first: see LD_LIBRARY_PATH"
    return (
        f"make setup; without uv: {Path(sys.executable).name} -m pip install '{package}>=9.15' "
        "(pip warns that torch names another one)"
    )


def attention() -> list[Line]:
    import torch

    from hvdm.nets.attention import attention as attend
    from hvdm.nets.attention import backend

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    dtype = torch.bfloat16 if cuda else torch.float32
    row = torch.randn(2, 16, 4, 64, device=device, dtype=dtype)
    attend(row, row, row)
    used = backend(device, dtype, 64)
    if cuda and used == "torch":
        remedy = "uv sync --frozen brings the torch that this xformers was built for"
        return [Line("attention", "warning", "torch: xformers has no operator here", remedy)]
    return [Line("attention", "ok", f"{used} on {device.type}")]


def video() -> list[Line]:
    """Writes a clip and reads it back with each decoder; the program ffmpeg is not used."""
    import av
    import numpy as np
    import torch

    from hvdm.media.pictures import write_mp4

    clip = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 64, 64, 3) * 30
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(clip, path)
        readers: dict[str, Callable[[], Any]] = {
            "av": lambda: _read_av(av, path),
            "decord": lambda: _read_decord(path),
        }
        for name, read in readers.items():
            lines.append(_reads(name, read, np.asarray(clip)))
    return lines


def _reads(name: str, read: Callable[[], Any], clip: Any) -> Line:
    try:
        frames = read()
    except ImportError:
        return Line("video", "warning", f"{name} is not there", "av reads instead, more slowly")
    apart = abs(frames.astype(int) - clip.astype(int)).mean()
    if frames.shape != clip.shape or apart > 4:
        return Line("video", "failed", f"{name} reads back something else", "uv sync --frozen")
    return Line("video", "ok", f"{name} reads h264 (the program ffmpeg is not needed)")


def _read_av(av: Any, path: Path) -> Any:
    import numpy as np

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


def _read_decord(path: Path) -> Any:
    import decord

    return decord.VideoReader(str(path), num_threads=1)[:].asnumpy()


def evaluation() -> list[Line]:
    import torch

    from eval.networks import detectors

    made = detectors.make("untrained")
    made.extract(torch.zeros(1, 4, 16, 16, 3, dtype=torch.uint8))
    return [Line("evaluation", "ok", "torch-fidelity runs the untrained detector")]


def deepspeed() -> list[Line]:
    import torch

    from hvdm import dist
    from hvdm.train import zero

    began, notes = time.monotonic(), list[str]()
    zero.prepare(torch.device("cpu"), 60, notes.append)
    dist.stop()
    told = f"; {notes[0]}" if notes else ""
    took = time.monotonic() - began
    return [Line("deepspeed", "ok", f"CPU operator ready in {took:.0f} s{told}")]


def ray() -> list[Line]:
    from hvdm.config import ClusterConfig
    from launcher.workers import cluster

    began = time.monotonic()
    where = ClusterConfig("local", workers=2, cpus_per_worker=0.5)
    answer = cluster.over_ray(where)(len, ["two", "workers"])
    assert answer == [3, 7]
    took = time.monotonic() - began
    return [Line("ray", "ok", f"two workers started, answered and stopped in {took:.0f} s")]


PROBES: dict[str, Callable[[], list[Line]]] = {
    "gpu": gpu,
    "attention": attention,
    "video": video,
    "evaluation": evaluation,
    "deepspeed": deepspeed,
    "ray": ray,
}


def main(name: str) -> int:
    warnings.simplefilter("ignore")
    try:
        lines = PROBES[name]()
    except (UserError, RunError) as error:
        lines = [Line(name, "failed", str(error), "the line above says what to do")]
    print(json.dumps([asdict(line) for line in lines]), flush=True)
    return 1 if any(line.state == "failed" for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
