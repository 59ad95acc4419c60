import json
import os

import pytest

from hvdm.errors import UserError
from launcher import compose
from launcher.arguments import call
from launcher.sizing import models
from launcher.verbs import runs

SOAK = bool(os.environ.get("HVDM_SOAK"))


def described(*typed):
    return models.describe(typed[0], list(typed[1:]))


@pytest.mark.parametrize("name", compose.names())
def test_every_config_composes_and_builds_on_meta(name):
    trained = models.on_meta(compose.run_config(name)).trained
    assert trained
    assert all(models.parameters(net) > 0 for net in trained.values())


@pytest.mark.parametrize("name", [name for name in compose.names() if SOAK or "tiny/" in name])
def test_the_losses_of_a_config_are_counted(name):
    row = described(name)
    assert row["networks"]
    assert sum(counts["multiply_adds"] for counts in row["networks"].values()) > 0


def test_a_diffusion_config_is_built_on_a_first_stage_that_is_not_trained(tmp_path):
    row = described("tiny/hvdm_diffusion", f"first_stage={tmp_path}/not_there")
    assert row["latent_shape"] == described("tiny/hvdm_autoencoder")["latent_shape"]
    assert row["networks"]["denoiser"]["multiply_adds"] > 0


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(UserError, match="set first_stage_config=NAME"):
        described(
            "tiny/hvdm_diffusion", f"first_stage={tmp_path}/not_there", "first_stage_config=null"
        )


def test_json_is_one_list(capsys):
    assert call(runs.models, ["config=tiny/hvdm_autoencoder", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["config"] == "tiny/hvdm_autoencoder"


def test_overrides_need_a_config():
    with pytest.raises(UserError, match="model.width=8 of which config"):
        call(runs.models, ["model.width=8"])
