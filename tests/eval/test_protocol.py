import dataclasses

import pytest

from eval.protocol import PROTOCOLS, fields_of, find, fingerprint
from hvdm.errors import UserError


def prints(protocol, clips=32, **changes):
    given = {"video": {}, "data": {"manifest": "m"}, "detector": None, "generated": {}} | changes
    return fingerprint(fields_of(protocol, clips, **given))


def test_names_with_and_without_a_version():
    assert find("reconstruction@1") is find("reconstruction") is PROTOCOLS["reconstruction@1"]
    assert find("fvd/tf-reference@1").detector_default == "i3d"


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'reconstruction@1'"):
        find("reconstructon@1")
    with pytest.raises(UserError, match="choose from: fvd/tf-reference@1, reconstruction@1"):
        find("zzz")
    with pytest.raises(UserError, match="at least 2"):
        find("reconstruction", clips=1)


def test_the_fingerprint_changes_with_all_that_the_number_depends_on():
    protocol = find("fvd/tf-reference")
    base = prints(protocol)
    assert base == prints(find("fvd/tf-reference@1"))
    others = [
        prints(protocol, clips=31),
        prints(protocol, data={"manifest": "n"}),
        prints(protocol, detector={"name": "untrained", "sha256": "0"}),
        prints(protocol, generated={"seed": 1}),
        prints(protocol, video={"frames": 8}),
        prints(dataclasses.replace(protocol, version=2)),
        prints(dataclasses.replace(protocol, covariance="N")),
    ]
    assert len({base, *others}) == len(others) + 1


def test_few_clips_are_cut_into_several_blocks():
    protocol = find("fvd/tf-reference")
    assert [protocol.block_of(n) for n in (2, 8, 21, 512, 2048)] == [1, 1, 3, 64, 64]
