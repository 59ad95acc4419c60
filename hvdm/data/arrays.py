"""Arrays that numpy saved, of strangers: whatever their bytes run numpy into is damage."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hvdm.data.decode import CannotDecode

Numbers = npt.NDArray[np.generic]


def read_array(data: bytes | Path, what: str, named: str | None = None) -> Numbers:
    """The array of an .npy; of an .npz the first, or the one that is `named` where it has more."""
    try:
        found = np.load(io.BytesIO(data) if isinstance(data, bytes) else data, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return np.asarray(found[_chosen(list(found), named)])
    except Exception as error:  # heads are Python, archives are zips: there is no list of kinds
        raise CannotDecode(f"{what} cannot be read ({_line(error)})") from error


def _chosen(names: list[str], named: str | None) -> str:
    if named is not None and named in names:
        return named
    if not names or (named is not None and len(names) > 1):
        raise ValueError(f"it holds {len(names)} arrays ({', '.join(names)[:100]}), none {named}")
    return names[0]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
