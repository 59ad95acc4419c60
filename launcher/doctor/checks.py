"""Checks that need nothing but the standard library: versions, compiler, memory, disk, ports."""

import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from launcher.workers import reaching

GIB = 2**30
RAY_PORTS = {6379: "ray start --head", 8265: "the dashboard, and hvdm submit", 10001: "Ray clients"}


@dataclass(frozen=True)
class Line:
    name: str
    state: Literal["ok", "warning", "failed"]
    text: str
    remedy: str = ""


def python() -> list[Line]:
    version = platform.python_version()
    where = f"{version} in {sys.prefix}, {platform.system()} {platform.machine()}"
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        return [Line("python", "failed", where, "use Python 3.11 or 3.12: make setup PYTHON=…")]
    lines = [Line("python", "ok", where)]
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        text = "PYTHONDONTWRITEBYTECODE is set: every worker compiles its imports anew"
        lines.append(Line("bytecode", "warning", text, "unset PYTHONDONTWRITEBYTECODE"))
    return lines


def packages() -> list[Line]:
    """What pyproject.toml pins is what is installed."""
    wrong, shown = [], []
    for name, wanted in sorted(_pins().items()):
        have = _version(name)
        shown.append(f"{name} {have}")
        if have is None or (wanted and have != wanted):
            wrong.append(f"{name} is {have or 'missing'}, expected {wanted or 'any version'}")
    if wrong:
        return [Line("packages", "failed", "; ".join(wrong), "uv sync --frozen (or: make setup)")]
    return [Line("packages", "ok", ", ".join(shown))]


def _pins() -> dict[str, str | None]:
    """Our requirements on this platform: name to exact version, or None where any will do."""
    found: dict[str, str | None] = {}
    for line in metadata.requires("hvdm") or ():
        text, _, marker = line.partition(";")
        if "extra ==" in marker or ("x86_64" in marker and platform.machine() != "x86_64"):
            continue
        name = re.match(r"[\w.-]+", text)
        exact = re.search(r"==([\w.]+)", text)
        if name:
            found[name[0]] = exact[1] if exact else None
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def compiler() -> list[Line]:
    """DeepSpeed and Triton compile on first use: a C++ compiler, Python's headers, ninja."""
    found = shutil.which("c++") or shutil.which("g++")
    if found is None:
        remedy = "install one (Debian: apt-get install g++); until then use engine=local"
        return [Line("compiler", "failed", "neither c++ nor g++ is there", remedy)]
    headers = sysconfig.get_path("include")
    problem = _compiles(found, headers)
    if problem:
        remedy = "install Python's headers (Debian: apt-get install python3-dev), or g++ anew"
        return [Line("compiler", "failed", f"{found}: {problem}", remedy)]
    return [Line("compiler", "ok", f"{found}, headers in {headers}")]


def _compiles(compiler_path: str, headers: str) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.cpp"
        source.write_text("#include <Python.h>\n#include <vector>\nint main() { return 0; }\n")
        command = [compiler_path, f"-I{headers}", "-fsyntax-only", str(source)]
        try:
            tried = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    errors = [line for line in tried.stderr.splitlines() if "error" in line]
    return errors[0] if tried.returncode and errors else None


def machine() -> list[Line]:
    cores = len(os.sched_getaffinity(0))
    memory = _available_memory() / GIB
    text = f"{cores} cores, {memory:.0f} GiB of memory free"
    lines = [Line("machine", "ok", text)]
    if cores < 2:
        lines = [Line("machine", "warning", text, "two workers share one core: expect half speed")]
    if memory < 4:
        remedy = "close other programs: two workers and Ray need about 4 GiB"
        lines = [Line("machine", "warning", text, remedy)]
    return [*lines, _shared_memory(), _open_files()]


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return 0


def _shared_memory() -> Line:
    free = shutil.disk_usage("/dev/shm").free / GIB if Path("/dev/shm").is_dir() else 0.0
    text = f"{free:.1f} GiB free in /dev/shm"
    if free < 1:
        remedy = "in a container: --shm-size=8g; Ray's object store and gloo live there"
        return Line("shared memory", "warning", text, remedy)
    return Line("shared memory", "ok", text)


def _open_files() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{soft} (at most {hard})"
    if soft < 1024:
        return Line("open files", "warning", text, "ulimit -n 65536: Ray opens many sockets")
    return Line("open files", "ok", text)


# Disk


def disk() -> list[Line]:
    """Here, where runs go; the temporary folder, where Ray writes; the cache of built operators."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    extensions = os.environ.get("HVDM_EXTENSIONS_DIR")
    places = {
        "here": Path.cwd(),
        "temporary files": Path(tempfile.gettempdir()),
        "cache": Path(extensions) if extensions else cache,
    }
    return [_place(f"disk, {name}", path) for name, path in places.items()]


def _place(name: str, path: Path) -> Line:
    there = next(p for p in (path, *path.parents) if p.is_dir())
    problem = _write_problem(there)
    free = shutil.disk_usage(there).free / GIB
    inodes = os.statvfs(there)
    text = f"{path}: {free:.1f} GiB free"
    if problem:
        remedy = "free some space there, or make it writable; TMPDIR, out=DIR and " + (
            "HVDM_EXTENSIONS_DIR lead elsewhere"
        )
        return Line(name, "failed", f"{path}: {problem} ({free:.1f} GiB free)", remedy)
    if inodes.f_files and inodes.f_favail < 10_000:
        return Line(name, "warning", f"{path}: {inodes.f_favail} inodes left", "remove small files")
    if free < 2:
        return Line(name, "warning", text, "the demo needs about 1 GiB, checkpoints of a run more")
    return Line(name, "ok", text)


def _write_problem(folder: Path) -> str | None:
    """What the disk says to one MiB."""
    try:
        with tempfile.TemporaryFile(dir=folder) as handle:
            handle.write(bytes(2**20))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None


# Network


def host_name() -> list[Line]:
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        remedy = f"add a line for {name} to /etc/hosts"
        return [Line("host name", "warning", f"{name} has no address ({error})", remedy)]
    return [Line("host name", "ok", f"{name} is {address}")]


def ports() -> list[Line]:
    """Runs on this machine take free ports; these are for a cluster that others join."""
    lines = []
    for port, use in RAY_PORTS.items():
        if not _busy(port):
            continue
        text = f"{port} ({use}) is taken by {_owner(port)}"
        remedy = "needed only for a head node here: stop that program, or give Ray another port"
        lines.append(Line("ports", "warning", text, remedy))
    free = ", ".join(str(port) for port in RAY_PORTS)
    return lines or [Line("ports", "ok", f"{free} are free")]


def _busy(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("", port))
        except OSError:
            return True
    return False


def _owner(port: int) -> str:
    """The listening process as far as this user may see it."""
    wanted = f":{port:04X}"
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        rows = Path(table).read_text().splitlines()[1:] if Path(table).exists() else []
        fields = [row.split() for row in rows]
        inodes |= {f"socket:[{f[9]}]" for f in fields if f[1].endswith(wanted) and f[3] == "0A"}
    for pid, command in processes():
        if _open_links(pid) & inodes:
            return f"{Path(command.split()[0]).name} (process {pid})"
    return "a program of another user"


def _open_links(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found


def processes() -> Iterator[tuple[int, str]]:
    """Process ids and command lines."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            except (OSError, UnicodeDecodeError):
                continue
            if command:
                yield int(folder.name), command


# What an earlier Ray left behind


def ray_from_before() -> list[Line]:
    lines = [*_dead_address(reaching.RAY_NOTE), *_leftovers(Path("/tmp"))]
    if os.environ.get("RAY_ADDRESS"):
        text = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: cluster=existing goes there"
        lines.append(Line("ray from before", "warning", text, "unset RAY_ADDRESS if not meant"))
    return lines or [Line("ray from before", "ok", "nothing left over")]


def _dead_address(note: Path) -> list[Line]:
    """Ray keeps the address of the cluster it started here, and believes it after a crash."""
    address = reaching.noted(note)
    if address is None:
        return []
    if not reaching.answers(address):
        remedy = f"{reaching.remedy(note)}  (only cluster=existing looks at it)"
        return [Line("ray from before", "warning", reaching.unanswered(note, address), remedy)]
    return [Line("ray from before", "ok", f"a cluster answers at {address} (cluster=existing)")]


def _leftovers(folder: Path) -> list[Line]:
    """Session folders of ours that nobody holds: with processes that are left, or with none."""
    lines = []
    alive = list(processes())
    for session in reaching.sessions(folder):
        if reaching.is_held(session):
            continue
        users = [(pid, command) for pid, command in alive if str(session) in command]
        orphans = [pid for pid, _ in users if parent(pid) == 1]
        name = "ray from before"
        if orphans:
            text = f"{len(users)} processes of {session} outlived the program that started them"
            stop = f"kill {' '.join(str(pid) for pid, _ in users)}; rm -r {session}"
            lines.append(Line(name, "warning", text, stop))
        elif not users:
            text = f"{session} is left of a session that was killed"
            lines.append(Line(name, "warning", text, f"rm -r {session}"))
    return lines


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None
