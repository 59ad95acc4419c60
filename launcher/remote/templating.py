"""`hvdm cluster template …`: what Slurm, Kubernetes or cloud machines are handed for a run."""

import json
import math
import re
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from hvdm.config import RunConfig
from hvdm.errors import UserError, closest
from launcher import compose
from launcher.arguments import Arguments

FILES = {"slurm": "slurm.sh", "kuberay": "kuberay.yaml", "vm": "vm.yaml"}
DEFAULTS = {
    "image": "hvdm:latest",
    "time": "1-00:00:00",
    "storage": "/mnt/hvdm",
    "claim": "hvdm-storage",
    "memory": "64Gi",
    "region": "us-west-2",
    "machine": "p5.48xlarge",
    "setup": "",
    "grace_s": "300",
}


@dataclass(frozen=True)
class Room:
    """Of the cluster that the run needs."""

    nodes: int
    fewest_nodes: int
    cpus: int
    gpus: int


def template(given: Arguments) -> int:
    if len(given.words) != 1 or given.words[0] not in FILES:
        word = given.words[0] if given.words else ""
        raise UserError(f"template {word!r} is not known; {closest(word, FILES)}")
    kind, name = given.words[0], given.need("config", "tiny/hvdm_autoencoder")
    told = {key: given.take(key, default) or "" for key, default in DEFAULTS.items()}
    per_node = given.integer("workers_per_node", 8) or 0
    out, typed = given.take("out"), [o for o in given.rest() if not o.startswith("cluster=")]
    config = compose.run_config(name, ["cluster=existing", *typed])
    if per_node < 1:
        raise UserError(f"workers_per_node={per_node} is below 1")
    text = render(kind, name, typed, config, room(config, per_node), told)
    if out is None:
        sys.stdout.write(text)
    else:
        Path(out).write_text(text)
        print(json.dumps({"wrote": out}) if given.json else f"wrote {out}")
    return 0


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


def render(
    kind: str, name: str, typed: list[str], config: RunConfig, size: Room, told: dict[str, str]
) -> str:
    if Path(name).suffix in (".yaml", ".yml"):
        name = str(Path(name).absolute())
    words = [f"config={name}", *typed]
    gpus = f"#SBATCH --gpus-per-node={size.gpus}" if size.gpus else "# without GPUs"
    values = {
        **{key.upper(): value for key, value in told.items()},
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
    }
    text = resources.files("launcher.remote").joinpath("templates", FILES[kind]).read_text()
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)


def _job_name(run: str) -> str:
    """As Kubernetes takes it: lower case, digits and dashes, at most 40."""
    plain = re.sub(r"[^a-z0-9]+", "-", Path(run).name.lower()).strip("-")
    return f"hvdm-{plain}"[:40].rstrip("-")
