"""`hvdm cluster template …`: what Slurm, Kubernetes or cloud machines are handed for a run."""

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import ClassVar

import yaml

from hvdm.config import RunConfig, plain
from hvdm.data.store import is_remote
from hvdm.errors import UserError, closest
from hvdm.options import gathered, option
from launcher import compose, paths
from launcher.arguments import overrides
from launcher.run_options import KEYS, NAME, OpensRuns

MOUNT = "for example mount='sudo mount -t nfs SERVER:/ /mnt/hvdm'"
FILES = {"slurm": "slurm.sh", "kuberay": "kuberay.yaml", "vm": "vm.yaml"}


@dataclass(frozen=True, kw_only=True)
class TemplateOptions(OpensRuns):
    kind: str = option(
        about="an sbatch script, a RayJob, or a file for ray up",
        shown="slurm|kuberay|vm", example="slurm", word=True,
    )  # fmt: skip
    config: str = option(
        about="the run; cluster.workers gives the nodes", shown="NAME", example=NAME
    )
    workers_per_node: int = option(8, "GPUs and CPUs follow from the config's per worker", least=1)
    out: str | None = option(None, "default: printed", shown="FILE")
    time: str = option("1-00:00:00", "Slurm: how long", shown="D-HH:MM:SS")
    grace_s: int = option(300, "Slurm: how long before its end it stops")
    setup: str = option(
        "", "Slurm: a line before all others, such as source .venv/bin/activate", shown="COMMAND"
    )
    image: str = option("hvdm:latest", "Kubernetes and cloud", shown="NAME")
    storage: str = option(
        "/mnt/hvdm", "Kubernetes and cloud: what all nodes share; relative paths are taken from it",
        shown="DIR",
    )  # fmt: skip
    mount: str = option("", "cloud: what brings the storage to a fresh machine", shown="COMMAND")
    claim: str = option("hvdm-storage", "Kubernetes: the volume", shown="NAME")
    memory: str = option("64Gi", "Kubernetes: of a node", shown="SIZE")
    machine: str = option("p5.48xlarge", "cloud", shown="TYPE")
    region: str = option("us-west-2", "cloud", shown="NAME")
    json: bool = option(False, "with out=, what was written")
    keys: Mapping[str, str] = gathered("any key of the config", "KEY=VALUE", KEYS)
    examples: ClassVar = (
        "cluster template slurm config=tiny/hvdm_autoencoder cluster.workers=8 out=job.sh",
        "cluster template kuberay config=tiny/hvdm_autoencoder batch=64 cluster.workers=16",
        "cluster template vm config=tiny/hvdm_autoencoder batch=64 cluster.workers=16 "
        "mount='sudo mount -t nfs SERVER:/ /mnt/hvdm' out=cloud.yaml",
    )


@dataclass(frozen=True)
class Room:
    """Of the cluster that the run needs."""

    nodes: int
    fewest_nodes: int
    cpus: int
    gpus: int


def template(asked: TemplateOptions) -> int:
    if asked.kind not in FILES:
        raise UserError(f"template {asked.kind!r} is not known; {closest(asked.kind, FILES)}")
    typed = [o for o in overrides(asked.keys) if not o.startswith("cluster=")]
    config = compose.run_config(asked.config, ["cluster=existing", *typed])
    if asked.kind != "slurm":
        typed = in_storage(asked, typed, config)
    if asked.kind == "vm" and not asked.mount:
        raise UserError(f"mount= is missing: a fresh machine has no {asked.storage}; {MOUNT}")
    text = render(asked, typed, config, room(config, asked.workers_per_node))
    if asked.out is None:
        sys.stdout.write(text)
    else:
        Path(asked.out).write_text(text)
        print(json.dumps({"wrote": asked.out}) if asked.json else f"wrote {asked.out}")
    return 0


def in_storage(asked: TemplateOptions, typed: list[str], config: RunConfig) -> list[str]:
    """What was typed, with whole paths on the storage: no other folder is on all nodes."""
    storage = Path(asked.storage)
    if not storage.is_absolute():
        raise UserError(f"storage={asked.storage!r} is no whole path, such as {storage.absolute()}")
    if asked.config.endswith((".yaml", ".yml")):
        _shared("config", str(Path(asked.config).absolute()), True, storage)
    given = dict(override.partition("=")[::2] for override in typed)
    whole = dict(override.partition("=")[::2] for override in paths.typed(plain(config)))
    moved = {
        key: _all_shared(key, value, given.get(key, ""), storage) for key, value in whole.items()
    }
    kept = [override for override in typed if override.partition("=")[0] not in moved]
    return [*kept, *(f"{key}={value}" for key, value in moved.items())]


def _all_shared(key: str, value: str, typed: str, storage: Path) -> str:
    """Of a list, and of a mixture's paths with their weights, each."""
    if value[:1] not in ("[", "{"):
        return _shared(key, value, Path(typed).is_absolute(), storage)
    moved = []
    for one in value[1:-1].split(","):
        path, colon, weight = one.rpartition(":") if value[0] == "{" else (one, "", "")
        moved.append(f"{_shared(key, path, path in typed, storage)}{colon}{weight}")
    return f"{value[0]}{','.join(moved)}{value[-1]}"


def _shared(key: str, value: str, typed_whole: bool, storage: Path) -> str:
    """An address, a path on the storage, or a relative one that is taken from there."""
    if is_remote(value):
        return value
    value = os.path.normpath(value)
    if Path(value).is_relative_to(storage):
        return value
    here = Path.cwd()
    if typed_whole or not Path(value).is_relative_to(here):
        raise UserError(
            f"{key}={value!r} is not on storage={str(storage)!r}, which is all that the nodes "
            "share: give a path below it, or a relative one, which is taken from there"
        )
    return str(storage / Path(value).relative_to(here))


def room(config: RunConfig, per_node: int) -> Room:
    cluster = config.cluster
    fewest = cluster.fewest_workers or cluster.workers
    per_node = min(per_node, cluster.workers)
    return Room(
        nodes=math.ceil(cluster.workers / per_node),
        fewest_nodes=math.ceil(fewest / per_node),
        cpus=math.ceil(cluster.cpus_per_worker * per_node),
        gpus=math.ceil(cluster.gpus_per_worker * per_node),
    )


def render(asked: TemplateOptions, typed: list[str], config: RunConfig, size: Room) -> str:
    name = asked.config
    if Path(name).suffix in (".yaml", ".yml"):
        name = str(Path(name).absolute())
    words = [f"config={name}", *(["trust=true"] if asked.trust else []), *typed]
    storage = shlex.quote(asked.storage)
    missing = shlex.quote(f"{asked.storage} is no mount: mount= has to bring it")
    gpus = f"#SBATCH --gpus-per-node={size.gpus}" if size.gpus else "# without GPUs"
    values = {
        **{key.upper(): str(value) for key, value in vars(asked).items()},
        "JOB": _job_name(config.run),
        "COMMAND": shlex.join(["hvdm", "train", *words, "cluster=existing"]),
        "SUBMITTED": shlex.join(words),
        "NODES": str(size.nodes),
        "FEWEST_NODES": str(size.fewest_nodes),
        "CPUS": str(size.cpus),
        "GPUS": str(size.gpus),
        "GPU_LINE": gpus,
        "GPU_RESOURCE": f', nvidia.com/gpu: "{size.gpus}"' if size.gpus else "",
        "RAY": metadata.version("ray"),
        "VOLUME": f"--volume={storage}:{storage}",
        "MADE": f"sudo mkdir -p {storage}",
        "MOUNTED": f"mountpoint -q {storage} || {{ echo {missing} >&2; exit 1; }}",
    }
    text = resources.files("launcher.remote").joinpath("templates", FILES[asked.kind]).read_text()
    return re.sub(
        r"@([A-Z_]+)(?:\|([a-z]+))?@", lambda found: QUOTES[found[2]](values[found[1]]), text
    )


def _in_yaml(value: str) -> str:
    return yaml.safe_dump(value, default_style='"', width=math.inf).strip()


def _in_a_comment(value: str) -> str:
    """On one line, whatever is in it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in value)


def _word(value: str) -> str:
    """Of a directive, which knows no quotes."""
    if not re.fullmatch(r"[\w.:/@+-]+", value, re.ASCII):
        raise UserError(f"{value!r} cannot stand in the script: letters, digits and .:/@+- can")
    return value


QUOTES: dict[str | None, Callable[[str], str]] = {
    None: lambda value: value,
    "yaml": _in_yaml,
    "comment": _in_a_comment,
    "word": _word,
}
"""Values are quoted by the language that they enter; the template says which."""


def _job_name(run: str) -> str:
    """As Kubernetes takes it: lower case, digits and dashes, at most 40."""
    plain = re.sub(r"[^a-z0-9]+", "-", Path(run).name.lower()).strip("-")
    return f"hvdm-{plain}"[:40].rstrip("-")
