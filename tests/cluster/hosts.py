"""Hosts on one machine: network namespaces on a bridge, each with an address of its own.

Root, Linux and iproute2 are needed. Everything made here has a name that begins with this
process's tag, and only that is removed.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.paced.holding import ROOT, environment, until

RAY = str(Path(sys.executable).with_name("ray"))
PORT = 6379
QUICK_NOTICE = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
}
"""How soon a silent node is given up: seconds in tests, half a minute by default."""


def why_not() -> str | None:
    """What is missing for such hosts."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts in network namespaces need root on Linux"
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "hosts in network namespaces need iproute2 (Debian: apt-get install iproute2)"
    tried = subprocess.run(["ip", "netns", "add", _tag("try")], capture_output=True, text=True)
    if tried.returncode:
        return f"network namespaces cannot be made here: {tried.stderr.strip()}"
    _run("ip", "netns", "del", _tag("try"))
    return None


def _tag(name: object) -> str:
    """Of this process; an interface's name has room for fifteen letters."""
    return f"hv{os.getpid() % 100000}{name}"


_clusters = itertools.count()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Host:
    """Network, processes and Ray's folder are its own: a driver looks for its raylet among the
    processes that it sees, and in a folder of the same name on all hosts."""

    def __init__(self, number: int, subnet: str, tag: str, folder: Path) -> None:
        self.number, self.subnet, self.folder = number, subnet, folder
        self.name, self.outer = f"{tag}n{number}", f"{tag}v{number}"
        self._first: psutil.Process | None = None
        self._wire: subprocess.Popen[str] | None = None

    @property
    def address(self) -> str:
        return f"{self.subnet}.{self.number}"

    @property
    def inside(self) -> list[str]:
        """What leads a command here."""
        assert self._first is not None
        return ["nsenter", f"--target={self._first.pid}", "--net", "--pid", "--mount",
                f"--wd={ROOT}", "--"]  # fmt: skip

    @property
    def beside(self) -> list[str]:
        """The same, but with all processes of the machine in sight."""
        return ["ip", "netns", "exec", self.name, "sh", "-c", f'{self._mount} && exec "$@"', "sh"]

    @property
    def _mount(self) -> str:
        return f"mount --bind {self.folder}/{self.number} {self.folder}/ray"

    def boot(self) -> None:
        """The first process; all others of the host end with it."""
        if self._first is not None and self._first.is_running():
            return
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        stay = [*alone, "sh", "-c", f"{self._mount} && exec sleep infinity"]
        outer = psutil.Popen(["ip", "netns", "exec", self.name, *stay], stderr=subprocess.DEVNULL)
        until(lambda: [c for c in outer.children(recursive=True) if c.name() == "sleep"])
        (self._first,) = [c for c in outer.children(recursive=True) if c.name() == "sleep"]
        self._outer = outer

    def make(self, bridge: str) -> None:
        self._bridge = bridge
        (self.folder / str(self.number)).mkdir()
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", self.outer, "type", "veth", "peer", "e0", "netns", self.name)
        _run("ip", "link", "set", self.outer, "master", bridge, "up")
        _run("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev", "e0")
        for device in ("lo", "e0"):
            _run("ip", "-n", self.name, "link", "set", device, "up")
        self.boot()
        # Ray finds a host's own address by asking for the way to the outside.
        _run("ip", "-n", self.name, "route", "add", "default", "dev", "e0")

    def cut(self) -> None:
        _run("ip", "link", "set", self.outer, "down")

    def mend(self) -> None:
        _run("ip", "link", "set", self.outer, "up")

    def slow(self, rate: str) -> None:
        """Both ways; for example 20mbit."""
        shape = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
        _run("tc", "qdisc", "add", "dev", self.outer, *shape)
        _run("ip", "netns", "exec", self.name, "tc", "qdisc", "add", "dev", "e0", *shape)

    def fast(self) -> None:
        _run("tc", "qdisc", "del", "dev", self.outer, "root")
        _run("ip", "netns", "exec", self.name, "tc", "qdisc", "del", "dev", "e0", "root")

    def delay(self, seconds: float) -> None:
        """Each way: a bridge of its own for the host, and a wire from there to all others."""
        own, *ends = (f"{self.outer}{letter}" for letter in "bij")
        wire = [sys.executable, str(Path(__file__).with_name("wire.py")), str(seconds), *ends]
        self._wire = subprocess.Popen(wire, stdout=subprocess.PIPE, text=True)
        assert self._wire.stdout is not None and self._wire.stdout.readline() == "made\n"
        _run("ip", "link", "add", own, "type", "bridge")
        _run("ip", "link", "set", own, "up")
        for end, bridge in zip((*ends, self.outer), (own, self._bridge, own)):
            _run("ip", "link", "set", end, "master", bridge, "up")

    def prompt(self) -> None:
        """No delay any more."""
        if self._wire is not None:
            _run("ip", "link", "set", self.outer, "master", self._bridge)
            _run("ip", "link", "del", f"{self.outer}b")
            self._wire.kill()
            self._wire.communicate()
            self._wire = None

    def pids(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]

    def kill(self) -> None:
        """Every process of the host at once, as when its power fails."""
        if self._first is not None:
            self._first.kill()
            self._outer.wait()
            self._first = None
        until(lambda: not self.pids())

    def workers(self) -> list[psutil.Process]:
        found = []
        for pid in self.pids():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def remove(self) -> None:
        for pid in self.pids():
            if self._first is None or pid != self._first.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.prompt()
        self.kill()
        for made in (["netns", "del", self.name], ["link", "del", self.outer]):
            subprocess.run(["ip", *made], capture_output=True)


class Cluster:
    """Ray on hosts of a bridge, the first one its head."""

    def __init__(
        self, hosts: int, cpus: int = 2, dashboard: bool = False, ray: bool = True
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_tag('')}-", dir="/tmp"))
        self._cpus, self._dashboard = cpus, dashboard
        number = next(_clusters)
        tag, subnet = _tag("abcdefgh"[number % 8]), f"10.{77 + number}.{os.getpid() % 250}"
        self._bridge = f"{tag}br"
        self.hosts = [Host(place, subnet, tag, self.folder) for place in range(1, hosts + 1)]
        (self.folder / "ray").mkdir()
        try:
            _run("ip", "link", "add", self._bridge, "type", "bridge")
            _run("ip", "link", "set", self._bridge, "up")
            for host in self.hosts:
                host.make(self._bridge)
            if ray:
                self.start_ray(*self.hosts)
        except BaseException:
            self.remove()
            raise

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def address(self) -> str:
        return f"{self.head.address}:{PORT}"

    def start_ray(self, *hosts: Host) -> None:
        for host in hosts:
            host.boot()
            where = [f"--node-ip-address={host.address}", f"--num-cpus={self._cpus}"]
            where += ["--object-store-memory=100000000", "--disable-usage-stats"]
            if host is self.head:
                show = "true" if self._dashboard else "false"
                where += ["--head", f"--port={PORT}", f"--include-dashboard={show}"]
                where += [f"--temp-dir={self.folder}/ray", f"--dashboard-host={host.address}"]
            else:
                where += [f"--address={self.address}"]
            self.run(host, RAY, "start", *where)

    def run(self, host: Host, *command: str, timeout_s: float = 240.0) -> str:
        done = subprocess.run(
            [*host.inside, *command],
            env=self.environment(),
            capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def environment(self) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**environment(), **QUICK_NOTICE, "PATH": path}

    def where(self, workers: int | str, cpus: float = 1.0, limit_s: int = 20) -> list[str]:
        """The keys that lead a run here."""
        return [
            "cluster=existing", f"cluster.address={self.address}", f"cluster.workers={workers}",
            f"cluster.cpus_per_worker={cpus}", "cluster.gpus_per_worker=0",
            f"cluster.timeout_s={limit_s}", "cluster.spares=false",
        ]  # fmt: skip

    def remove(self) -> None:
        for host in self.hosts:
            host.remove()
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def cluster(hosts: int, **options: bool | int) -> Iterator[Cluster]:
    made = Cluster(hosts, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.remove()


class Clock:
    """Seconds since something was done."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began


def command(host: Host, typed: Sequence[str]) -> list[str]:
    return [*host.inside, *typed]
