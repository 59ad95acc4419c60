"""What is typed after `hvdm`: words, `key=value` and flags; and of these, the options of a verb."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, get_origin, get_type_hints

from hvdm import config
from hvdm.errors import UserError, closest
from hvdm.options import Told, told

T = TypeVar("T")
FLAGS = ("--json", "--traceback", "--help")


@dataclass(frozen=True)
class Arguments:
    words: tuple[str, ...]
    values: Mapping[str, str]
    flags: frozenset[str]


def parse(typed: Sequence[str]) -> Arguments:
    words, values, flags = [], {}, set()
    for word in typed:
        if word in ("-h", "--help"):
            flags.add("--help")
        elif word.startswith("--"):
            if word not in FLAGS:
                raise UserError(_no_flag(word))
            flags.add(word)
        elif "=" in word:
            key, _, value = word.partition("=")
            values[key] = value
        else:
            words.append(word)
    return Arguments(tuple(words), values, frozenset(flags))


def _no_flag(word: str) -> str:
    key, _, value = word.removeprefix("--").partition("=")
    if get_close_matches(word, FLAGS, cutoff=0.75):
        return f"unknown flag {word!r}; {closest(word, FLAGS)}"
    return f"unknown flag {word!r}; keys are typed without dashes: {key}={value or 'VALUE'}"


def call(verb: Callable[[Any], int], given: Arguments | Sequence[str]) -> int:
    """The verb with what was typed for it."""
    given = given if isinstance(given, Arguments) else parse(given)
    return verb(read(options_of(verb), given))


def options_of(verb: Callable[[Any], int]) -> Any:
    """The dataclass of what a verb can be asked for: the type of its one argument."""
    (kind,) = [kind for name, kind in get_type_hints(verb).items() if name != "return"]
    return kind


def read(cls: type[T], given: Arguments) -> T:
    """What nobody takes is named, not silently ignored, and before anything that is missing."""
    options = list(told(cls))
    typed: dict[str, Any] = {}
    for key, value in given.values.items():
        home = _home(key, options)
        if home.gathers is None:
            typed[key] = value
        else:
            typed.setdefault(home.name, {})[key] = value
    typed |= _from_words(given.words, options, typed)
    if "--json" in given.flags:
        if not any(one.name == "json" for one in options):
            raise UserError("--json: this verb has no answer as data; leave it out")
        typed["json"] = True
    return config.parse(cls, typed)


def _home(key: str, options: Sequence[Told]) -> Told:
    for one in options:
        if one.gathers is None and one.name == key:
            return one
    for one in sorted(options, key=lambda one: one.gathers == ()):  # who takes all comes last
        if one.gathers == () or one.gathers and key.split(".")[0] in one.gathers:
            return one
    known = [name for one in options for name in one.gathers or (one.name,)]
    raise UserError(f"unknown key {key!r}; {closest(key, known)}")


def _from_words(
    words: Sequence[str], options: Sequence[Told], typed: Mapping[str, Any]
) -> dict[str, Any]:
    """Options that need no key, in their order; the last may take several words."""
    left, found = list(words), {}
    for one in options:
        if left and one.word and one.name not in typed:
            many = get_origin(one.kind) is tuple
            found[one.name] = left if many else left[0]
            left = [] if many else left[1:]
    if left and found:
        raise UserError(f"{left[0]!r} is one word too many after {words[-len(left) - 1]!r}")
    if left:
        keys = [one.name for one in options if one.gathers is None and one.name not in typed]
        hint = f"; did you mean {keys[0]}={left[0]}?" if keys else ""
        raise UserError(f"{left[0]!r} is no key=value{hint}")
    return found


def overrides(values: Mapping[str, str]) -> list[str]:
    """As Hydra takes them."""
    return [f"{key}={value}" for key, value in values.items()]
