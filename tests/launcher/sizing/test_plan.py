"""`hvdm plan` against live engines, against itself, and against configs that cannot work."""

import json
from dataclasses import replace

import pytest
from torch._subclasses.fake_tensor import FakeTensorMode

from hvdm.errors import UserError
from launcher import compose
from launcher.arguments import call
from launcher.sizing import footprint, models, plan
from launcher.verbs import runs
from tests.support.live_bytes import after_backward

AUTOENCODER, DIFFUSION = "tiny/hvdm_autoencoder", "tiny/hvdm_diffusion"


def config_of(name, stage, precision="fp32", micro_batch=4):
    overrides = ["engine=deepspeed", f"engine.zero={stage}", f"engine.precision={precision}"]
    size = ["engine.bucket_mb=3", "cluster.workers=2", "batch=8", f"micro_batch={micro_batch}"]
    return compose.run_config(name, [*overrides, *size])


def planned(config):
    with FakeTensorMode():
        recipe = footprint.recipe_without_storage(config)
        state = footprint.state(config, recipe, config.engine.zero)
    return state.total - state.buckets


LIVE = [(DIFFUSION, stage, "fp32") for stage in (0, 1, 2, 3)]
LIVE += [(AUTOENCODER, stage, "bf16") for stage in (1, 2, 3)]


@pytest.mark.processes
@pytest.mark.parametrize("name, stage, precision", LIVE)
def test_state_is_within_five_percent_of_a_live_engine(two_ranks, name, stage, precision):
    config = config_of(name, stage, precision)
    (live, _) = two_ranks.run(after_backward, config, models.configs_below(config))
    assert planned(config) == pytest.approx(live, rel=0.05)


@pytest.mark.processes
def test_micro_steps_make_stage_1_wait_with_its_gradients(two_ranks):
    config = config_of(AUTOENCODER, 1, micro_batch=2)
    (live, _) = two_ranks.run(after_backward, config, {}, False)
    assert planned(config) == pytest.approx(live, rel=0.05)


def test_a_wrong_formula_would_be_noticed():
    """The control: stage 2's bytes are not stage 0's."""
    two, none = config_of(AUTOENCODER, 2), config_of(AUTOENCODER, 0)
    assert planned(two) != pytest.approx(planned(none), rel=0.05)


@pytest.fixture
def counted(monkeypatch):
    """A step whose numbers are known; counting one takes seconds."""
    steps = {"off": footprint.Step(0, 2**30, 10**12), "on": footprint.Step(0, 2**29, 10**12)}
    monkeypatch.setattr(plan, "_steps", lambda config: steps)


def answer(capsys, *typed):
    assert call(runs.plan, [*typed, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_answer_for_programs(capsys):
    found = answer(capsys, f"config={AUTOENCODER}", "gpus=4", "gpu=a100", "mfu=0.5")
    assert [row["stage"] for row in found["zero"]] == [0, 1, 2, 3]
    totals = [row["total_bytes"] for row in found["zero"]]
    assert totals == sorted(totals, reverse=True)
    assert found["speed"]["peak_tflops"] == 19.5 and found["speed"]["mfu"] == 0.5
    fits = found["zero"][0]["largest_micro_batch"]
    assert fits == {"off": 2, "on": 2}, "of a batch of 8 a fourth"
    assert found["activations"]["on"]["per_clip"] < found["activations"]["off"]["per_clip"]


def test_speed_and_days_follow_from_the_operations(capsys, counted):
    one = answer(capsys, f"config={DIFFUSION}", "gpus=1", "samples=1Mi")["speed"]
    four = answer(capsys, f"config={DIFFUSION}", "gpus=4", "samples=1Mi")["speed"]
    assert four["steps_per_second"] == pytest.approx(4 * one["steps_per_second"])
    assert one["days"] == pytest.approx(one["steps"] / one["steps_per_second"] / 86_400)
    operations = 2 * one["multiply_adds_per_clip"] * one["clips_per_second"]
    assert operations == pytest.approx(0.3 * 67e12)


def test_a_stage_a_micro_batch_and_checkpointing_are_recommended(capsys, monkeypatch):
    def told(steps, *typed):
        monkeypatch.setattr(plan, "_steps", lambda config: steps)
        assert call(runs.plan, [f"config={AUTOENCODER}", "micro_batch=1", *typed]) == 0
        out = capsys.readouterr().out
        assert "unknown" not in out and "clips/s" in out and " steps in " in out
        return out.splitlines()[-1]

    small = footprint.Step(0, 2**30, 10**12)
    large = footprint.Step(0, 200 * 2**30, 10**12)
    line = told({"off": small, "on": small}, "gpus=4")
    assert line == (
        "recommended: micro_batch=2 (2 clips at once are all that batch=8 leaves a GPU; whole "
        "networks fit)"
    )
    line = told({"off": small, "on": None}, "gpus=1", "batch=1024")
    assert line.startswith("recommended: micro_batch=7") and "are as many as fit" in line
    more = ["model.activation_checkpointing=true", "gpus=4"]
    line = told({"off": large, "on": small}, *more)
    assert "micro_batch=2 model.activation_checkpointing=true" in line
    assert "without checkpointing not one clip fits" in line
    wide = ["model.width=8192", "engine=deepspeed", "engine.zero=3", "gpus=8"]
    assert "engine=deepspeed engine.zero=" in told({"off": small, "on": small}, *wide)


def test_half_as_wide_is_about_a_quarter_of_the_operations():
    def spent(width):
        config = compose.run_config(AUTOENCODER, [f"model.width={width}"])
        return footprint.step(config).operations

    assert 2.5 < spent(256) / spent(128) < 4


def test_peak_of_tensors_without_storage_is_that_of_real_ones():
    config = compose.run_config(AUTOENCODER)
    fake = footprint.step(config, checkpointing=False)
    recipe = footprint.building.build_recipe(config)
    footprint._drop_gradients(recipe.trained)
    peak, operations = footprint._run(config, recipe, 2)
    assert peak == pytest.approx(fake.fixed + 2 * fake.per_clip, rel=0.02)
    assert operations == 2 * fake.operations


def test_a_checkpoint_holds_master_moments_and_average():
    """Master, two moments, and the average of the denoiser."""
    config = compose.run_config(DIFFUSION)
    with FakeTensorMode():
        recipe = footprint.recipe_without_storage(config)
    count = models.parameters(recipe.trained["denoiser"])
    assert plan.checkpoint_bytes(config, recipe) == 16 * count


BAD = [
    (["gpus=0"], "gpus=0 is below 1"),
    (["gpu=v100"], "gpu='v100' is not known"),
    (["mfu=3"], "mfu=3: the share"),
    (["gpus=16"], "workers without a row: batch=8 is smaller"),
    (["engine=deepspeed", "engine.zero=4"], "engine.zero=4 is no ZeRO stage"),
    (["engine=local", "engine.zero=2"], "needs engine=deepspeed"),
    (["engine=deepspeed", "engine.precision=fp64"], "fp64 needs engine=local"),
    (["data.frames=7"], "data.frames=7: the wavelet transform pairs frames"),
    (["data.height=30"], "data.height=30: it must be a multiple of model.patch"),
    (["model.widht=3"], "did you mean 'model.width'"),
    (["model.patch=5"], "model.patch=5: choose from"),
    (["samples=0"], "samples gives no training step"),
    (["micro_batch=0"], "micro_batch=0 is below 1"),
    (["model.width=8192"], "does not fit with engine.zero=0"),
    (["batch=65536", "micro_batch=65536"], "use micro_batch="),
    (["config=tiny/hvdm_autoencodr"], "did you mean 'tiny/hvdm_autoencoder'"),
    (["config=tiny/hvdm_diffusion", "model.multipliers=[1,2,2,2,2]"], "levels"),
    (["cluster.workers=3"], "say gpus=N instead"),
]


@pytest.mark.parametrize("typed, reason", BAD, ids=[" ".join(typed) for typed, _ in BAD])
def test_what_cannot_work_is_refused_with_the_reason(capsys, counted, typed, reason):
    with pytest.raises(UserError) as refusal:
        call(runs.plan, [f"config={AUTOENCODER}", *typed])
    assert reason in str(refusal.value) and "\n" not in str(refusal.value)


def test_two_networks_cannot_have_stage_3(monkeypatch, capsys, counted):
    real = footprint.recipe_without_storage

    def doubled(config):
        recipe = real(config)
        recipe.phases = recipe.phases * 2
        return recipe

    monkeypatch.setattr(footprint, "recipe_without_storage", doubled)
    found = answer(capsys, f"config={AUTOENCODER}")
    assert "engine.zero=2" in found["zero"][3]["impossible"]
    with pytest.raises(UserError, match="engine.zero=3 does not work"):
        call(runs.plan, [f"config={AUTOENCODER}", "engine=deepspeed", "engine.zero=3"])


def test_the_way_out_is_a_plan_that_fits(capsys, counted):
    typed = [f"config={AUTOENCODER}", "model.width=8192"]
    with pytest.raises(UserError, match="use engine=deepspeed engine.zero=") as refusal:
        call(runs.plan, typed)
    way = str(refusal.value).rpartition("use ")[2].split()
    capsys.readouterr()
    assert call(runs.plan, [*typed, *way]) == 0


def test_a_loss_that_differentiates_what_its_critic_sees_is_planned():
    small = ["model.width=8", "model.multipliers=[1]", "model.blocks=1", "model.critic_layers=2"]
    config = compose.run_config("tiny/wavediff", [*small, "model.critic_width=4"])
    with_slope = footprint.step(config)
    without = footprint.step(replace(config, model={**config.model, "gradient_penalty": 0.0}))
    assert with_slope.operations > without.operations > 0
