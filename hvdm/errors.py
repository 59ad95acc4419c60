"""Errors that a user can act on: one line that says what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something in the request is wrong: exit code 2, one line, no traceback."""

    exit_code = 2


class NoNetwork(UserError, AttributeError):
    """Asked of a run by name; an attribute that is not there, for who probes for some."""


class RunError(Exception):
    """The request was fine and the run could not go on: exit code 1, one line, no traceback."""

    exit_code = 1


def closest(word: str, choices: Iterable[str]) -> str:
    """Those that begin with the word, or the one that is near, or all of them."""
    options = sorted(map(str, choices))
    begun = [option for option in options if option.startswith(word)]
    if word and len(begun) > 1:
        return "choose from: " + ", ".join(begun)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return "choose from: " + ", ".join(options)
