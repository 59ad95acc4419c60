"""What is in this checkout, by git where there is one."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hvdm", "launcher", "eval", "data_tools", "configs")


def files(*folders: str) -> list[Path]:
    """Tracked files, and new ones that git does not ignore."""
    asked = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "--", *folders]
    listed = subprocess.run(asked, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        found = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts)


def modules(*folders: str) -> list[Path]:
    return [path for path in files(*folders) if path.suffix == ".py"]
