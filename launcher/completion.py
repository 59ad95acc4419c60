"""Shell completion: the script for a shell, and the words that it asks for."""

import os
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from hvdm.errors import UserError, closest
from launcher.arguments import FLAGS, Arguments
from launcher.verbs.table import VERBS, Verb

ASKED = "HVDM_COMPLETE"
"""The line as far as the cursor; in the environment, where no `=` in it means anything."""

SCRIPTS = {
    "bash": """\
_hvdm() {
    local line="${COMP_LINE:0:COMP_POINT}" word
    local typed="${line##* }"
    mapfile -t COMPREPLY < <(HVDM_COMPLETE="$line" hvdm completion words 2>/dev/null)
    # bash splits words at "=": what is already before it is not to be typed again
    if [[ "$typed" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${typed%"${typed##*=}"}"}")
    fi
    for word in "${COMPREPLY[@]}"; do [[ "$word" == *= ]] && compopt -o nospace; done
}
complete -F _hvdm hvdm
""",
    "zsh": """\
_hvdm() {
    local -a words_here
    words_here=("${(@f)$(HVDM_COMPLETE="$LBUFFER" hvdm completion words 2>/dev/null)}")
    compadd -S '' -- $words_here
}
compdef _hvdm hvdm
""",
    "fish": """\
complete -c hvdm -f -a '(HVDM_COMPLETE=(commandline -cp) hvdm completion words 2>/dev/null)'
""",
}


def completion(given: Arguments) -> int:
    shell = given.words[0] if given.words else ""
    given.done()
    if shell == "words":
        print("\n".join(candidates(os.environ.get(ASKED, ""))))
        return 0
    if shell not in SCRIPTS:
        raise UserError(f"completion for {shell!r} is not known; {closest(shell, SCRIPTS)}")
    print(SCRIPTS[shell], end="")
    return 0


def candidates(line: str) -> list[str]:
    """What may stand where the line ends."""
    *before, typed = line.split(" ")[1:] or [""]
    before = [word for word in before if word]
    verb = _verb(before)
    found = _of_verb(verb, before, typed) if verb else _verbs(before)
    return sorted(word for word in set(found) if word.startswith(typed))


def _verb(before: list[str]) -> Verb | None:
    for length in (2, 1):
        verb = VERBS.get(" ".join(before[:length]))
        if verb and len(before) >= length:
            return verb
    return None


def _verbs(before: list[str]) -> Iterable[str]:
    """First words of verbs, or second ones behind their first."""
    place = len(before)
    for name in VERBS:
        words = name.split()
        if words[:place] == before and len(words) > place:
            yield words[place]


def _of_verb(verb: Verb, before: list[str], typed: str) -> Iterable[str]:
    key = typed.partition("=")[0]
    if "=" in typed:
        return [f"{key}={value}" for value in _values(verb, key)]
    given = {word.partition("=")[0] for word in before}
    names = [name for name in _keys(verb) if name not in given]
    return [*(f"{name}=" for name in names), *FLAGS]


def _keys(verb: Verb) -> dict[str, list[str]]:
    """The verb's keys with the choices that its help names."""
    found: dict[str, list[str]] = {}
    for text, _ in verb.keys:
        for key, values in re.findall(r"([\w.]+)=(\S+)", text):
            if key != "KEY":
                choices = values.split("|") if "|" in values else []
                found[key] = [choice for choice in choices if choice.islower()]
    return found


def _values(verb: Verb, key: str) -> list[str]:
    if key == "config":
        return config_names()
    if key in ("run", "init", "first_stage", "base") or key.startswith("stages."):
        return runs(Path("runs"))
    return _keys(verb).get(key, [])


def config_names() -> list[str]:
    """Read from the folder alone: importing Hydra would take longer than typing the name."""
    root = Path(str(resources.files("configs")))
    groups = {"engine", "cluster", "optimizer"}
    found = (path.relative_to(root).with_suffix("") for path in root.rglob("*.yaml"))
    return sorted(
        str(name) for name in found if len(name.parts) > 1 and name.parts[0] not in groups
    )


def runs(folder: Path) -> list[str]:
    return sorted(str(path.parent) for path in folder.glob("**/config.yaml"))
