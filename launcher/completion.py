"""Shell completion: the script for a shell, and the words that it asks for."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hvdm.errors import UserError, closest
from hvdm.options import option
from launcher.arguments import FLAGS
from launcher.paths import run_configs
from launcher.verb import Verb
from launcher.verbs.table import VERBS

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


@dataclass(frozen=True, kw_only=True)
class CompletionOptions:
    shell: str = option(
        about="prints the script for that shell",
        shown="bash|zsh|fish", example="bash", word=True,
    )  # fmt: skip
    examples: ClassVar = (
        "completion bash >> ~/.bashrc",
        "completion zsh >> ~/.zshrc",
        "completion fish > ~/.config/fish/completions/hvdm.fish",
    )


def completion(asked: CompletionOptions) -> int:
    if asked.shell == "words":
        print("\n".join(candidates(os.environ.get(ASKED, ""))))
        return 0
    if asked.shell not in SCRIPTS:
        raise UserError(f"shell={asked.shell} is not known; {closest(asked.shell, SCRIPTS)}")
    print(SCRIPTS[asked.shell], end="")
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
        head, comma, _ = typed.rpartition(",")  # of several values, the last is completed
        values = _values(verb, key)
        return [f"{head}," + value if comma else f"{key}={value}" for value in values]
    given = {word.partition("=")[0] for word in before}
    names = [name for name in _keys(verb) if name not in given]
    return [*(f"{name}=" for name in names), *FLAGS]


def _keys(verb: Verb) -> dict[str, list[str]]:
    """The verb's keys with the choices that its help names."""
    found: dict[str, list[str]] = {}
    for text, _ in verb.rows:
        for word in text.split():
            key, sign, values = word.partition("=")
            if sign and key.islower():
                choices = values.split("|") if "|" in values else []
                found[key] = [choice for choice in choices if choice.islower()]
    return found


def _values(verb: Verb, key: str) -> Iterable[str]:
    if key in _KNOWN:
        return _KNOWN[key]()
    if key.startswith("stages."):
        return _runs_here()
    return _keys(verb).get(key, [])


def runs(folder: Path) -> list[str]:
    return sorted(str(path.parent) for path in folder.glob("**/config.yaml"))


def protocols() -> Iterable[str]:
    from eval.protocol.protocol import PROTOCOLS

    return PROTOCOLS


def detectors() -> Iterable[str]:
    from eval.networks.detectors import KNOWN

    return KNOWN


def _runs_here() -> list[str]:
    return runs(Path("runs"))


_KNOWN: Mapping[str, Callable[[], Iterable[str]]] = {
    "config": run_configs,
    **dict.fromkeys(("run", "init", "first_stage", "base"), _runs_here),
    "protocol": protocols,
    "detector": detectors,
}
