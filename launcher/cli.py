"""`hvdm VERB key=value …`: finds the verb, runs it, and says in one line what went wrong."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from hvdm import trust
from hvdm.errors import RunError, UserError, closest
from hvdm.progress import close_output
from hvdm.redaction import redacted
from launcher import arguments
from launcher.verb import Verb, imported
from launcher.verbs.table import VERBS

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def main(typed: Sequence[str] | None = None) -> int:
    typed = list(sys.argv[1:] if typed is None else typed)
    try:
        return _run(typed)
    except (UserError, RunError) as error:
        if "--traceback" in typed:
            traceback.print_exc()
        print(redacted(f"hvdm: {error}"), file=sys.stderr)
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
    typed = ["version" if word in ("-V", "--version") else word for word in typed]
    helped = typed[:1] == ["help"]
    given = arguments.parse(typed[1:] if helped else typed)
    helped = helped or "--help" in given.flags
    if not given.words:
        print(overview())
        return 0 if helped or not typed else 2
    verb, rest = find(given)
    if helped:
        print(verb.help())
        if verb.more:
            print(f"\n{imported(verb.more)(rest.values)}")
        return 0
    values = dict(rest.values)
    told = values.get("trust", "false")
    if all(one.name != "trust" for one in verb.options):
        values.pop("trust", None)
    with _trusting(told):
        return arguments.call(verb.function, replace(rest, values=values))


@contextmanager
def _trusting(told: str) -> Iterator[None]:
    """trust=true, which every verb takes, holds for the processes of this command, too."""
    if told not in ("true", "false"):
        raise UserError(f"trust={told!r}: expected true or false")
    before = os.environ.get(trust.TOLD, "")
    os.environ[trust.TOLD] = "1" if told == "true" else before
    try:
        yield
    finally:
        os.environ[trust.TOLD] = before


def find(given: arguments.Arguments) -> tuple[Verb, arguments.Arguments]:
    """The verb of one word or two, and what is left for it."""
    words = given.words
    for length in (2, 1):
        name = " ".join(words[:length])
        if len(words) >= length and name in VERBS:
            return VERBS[name], replace(given, words=words[length:])
    below = [name for name in VERBS if name.split()[0] == words[0]]
    if below:
        word = words[1] if len(words) > 1 else ""
        choices = [name.split()[1] for name in below]
        raise UserError(f"unknown verb {words[0]} {word!r}; {closest(word, choices)}")
    raise UserError(f"unknown verb {words[0]!r}; {closest(words[0], VERBS)}")


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
            "Each verb explains itself by example:  hvdm help train",
            "A wrong key or value is named, with what was expected; --traceback shows more.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
