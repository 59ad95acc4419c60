"""`hvdm new family`: a module, a YAML and a test that run, to begin with."""

import keyword
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path
from string import Template
from typing import ClassVar

from hvdm.disk import atomic_write
from hvdm.errors import UserError
from hvdm.options import option

FILES = {"family.py.txt": "{}.py", "family.yaml.txt": "{}.yaml", "test_family.py.txt": "test_{}.py"}


@dataclass(frozen=True, kw_only=True)
class FamilyOptions:
    name: str = option(about="of the module", shown="NAME", example="my_family", word=True)
    out: str | None = option(None, "where to; default ./NAME", shown="DIR")
    examples: ClassVar = ("new family my_family", "new family my_family out=families/mine")


def new_family(asked: FamilyOptions) -> int:
    _check_name(asked.name)
    folder = Path(asked.out or asked.name)
    texts = {folder / kind.format(asked.name): _text(template, asked.name, folder)
             for template, kind in FILES.items()}  # fmt: skip
    _check_free(list(texts))
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        atomic_write(path, text)
        print(path)
    print(_next(asked.name, folder))
    return 0


def _check_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        raise UserError(
            f"name={name!r} cannot name a module; take small letters, digits and _, such as "
            "my_family"
        )
    if util.find_spec(name) is not None:
        raise UserError(f"name={name}: Python has a module of this name already; take another")


def _check_free(paths: list[Path]) -> None:
    for path in paths:
        if path.exists():
            raise UserError(f"{path} is there already; give another name, or out=DIR")


def _text(template: str, name: str, folder: Path) -> str:
    source = resources.files("launcher.scaffold") / "templates" / template
    class_name = "".join(part.capitalize() for part in name.split("_"))
    return Template(source.read_text()).substitute(name=name, folder=folder, class_name=class_name)


def _next(name: str, folder: Path) -> str:
    return "\n".join(
        [
            "",
            "what to do with it:",
            f"  python -m pytest {folder}",
            "  hvdm data synthetic out=datasets/shapes train=512 test=64",
            f"  export PYTHONPATH={folder.absolute()}",
            f"  hvdm train config={folder}/{name}.yaml cluster=inline",
            f"  hvdm sample run=runs/{name} count=4",
        ]
    )
