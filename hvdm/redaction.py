"""Addresses without what lets one in: files of a run are passed on, and passwords are not.

A running process goes on with the address that it was given. A later one, such as an evaluation,
takes credentials from where they belong: the environment, ~/.netrc, or fsspec's own config.
"""

import re

_USER = re.compile(r"(?<=://)[^/\s\"<>\\]+@")
_QUERY = re.compile(
    r"([?&][\w.-]*(?:token|sig|secret|passw|pwd|key|credential|auth)[\w.-]*=)[^&\s\"'<>#\\]+", re.I
)


def redacted(text: str) -> str:
    return _QUERY.sub(r"\1…", _USER.sub("", text))
