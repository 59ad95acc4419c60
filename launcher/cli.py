"""`hvdm VERB key=value …`: finds the verb, runs it, and says in one line what went wrong."""

import errno
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hvdm.errors import RunError, UserError, closest
from launcher import arguments
from launcher.progress import close_output
from launcher.verbs.table import VERBS, Verb

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(typed: Sequence[str] | None = None) -> int:
    typed = list(sys.argv[1:] if typed is None else typed)
    try:
        return _run(typed)
    except (UserError, RunError) as error:
        if "--traceback" in typed:
            traceback.print_exc()
        print(f"hvdm: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        close_output()
        return 141
    except OSError as error:
        if error.errno not in FULL or "--traceback" in typed:
            raise
        print(f"hvdm: {_full(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hvdm: interrupted", file=sys.stderr)
        return 130


def _full(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return (
        f"{error.strerror}{where}: free some space, or lead elsewhere with run=DIR or out=DIR, and "
        "TMPDIR for temporary files; hvdm doctor shows how much is free"
    )


def _run(typed: list[str]) -> int:
    given = arguments.parse(typed)
    if not given.words:
        print(overview())
        return 0 if "--help" in given.flags or not typed else 2
    verb = _find(given)
    if "--help" in given.flags:
        print(verb.help())
        if verb.more:
            print(f"\n{_imported(verb.more)(given)}")
        return 0
    code: int = _imported(verb.function)(given)
    return code


def _imported(place: str) -> Any:
    module, function = place.split(":")
    return getattr(import_module(module), function)


def _find(given: arguments.Arguments) -> Verb:
    """The verb of one word or two; its words are taken off."""
    for length in (2, 1):
        name = " ".join(given.words[:length])
        if len(given.words) >= length and name in VERBS:
            given.words = given.words[length:]
            return VERBS[name]
    below = [name for name in VERBS if name.split()[0] == given.words[0]]
    if below:
        word = given.words[1] if len(given.words) > 1 else ""
        choices = [name.split()[1] for name in below]
        raise UserError(f"unknown verb {given.words[0]} {word!r}; {closest(word, choices)}")
    raise UserError(f"unknown verb {given.words[0]!r}; {closest(given.words[0], VERBS)}")


def overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "hvdm: distributed training of generative video models",
            "",
            "usage: hvdm VERB [key=value …] [--json] [--traceback] [--help]",
            "",
            *lines,
            "",
            "Begin with:",
            "  hvdm demo                                     from nothing to a report, in minutes",
            "  hvdm doctor                                   what works here, and what to do",
            "  hvdm train config=tiny/hvdm_autoencoder       the same command again resumes",
            "  hvdm report run=runs/tiny/hvdm_autoencoder    what became of it",
            "Each verb explains itself by example:  hvdm train --help",
            "A wrong key or value is named, with what was expected; --traceback shows more.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
