"""The table of verbs: what each does, its keys, and examples that can be typed as they stand."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    name: str
    summary: str
    function: str
    keys: tuple[tuple[str, str], ...]
    examples: tuple[str, ...]

    def help(self) -> str:
        width = max(len(key) for key, _ in self.keys)
        lines = [f"hvdm {self.name}: {self.summary}", "", "keys:"]
        lines += [f"  {key:<{width}}  {text}" for key, text in self.keys]
        lines += ["", "examples:", *(f"  hvdm {example}" for example in self.examples)]
        return "\n".join(lines)


_WHERE = (
    ("cluster=inline|local|existing", "this process; Ray on this machine; a running Ray cluster"),
    ("cluster.workers=N", "how many processes share the work"),
)

_ALL = (
    Verb(
        "train",
        "trains a run, or goes on with it: the same command resumes",
        "launcher.commands:train",
        (
            ("config=NAME", "a config under configs/, or the path of a YAML file"),
            ("run=DIR", "the run folder; default runs/NAME"),
            ("steps=N", "how long, in steps, instead of the config's samples"),
            ("seed=N", "of the initial weights, the order of samples, and all noise"),
            ("engine=local|deepspeed", "plain torch, or DeepSpeed with engine.zero=0|1|2|3"),
            ("engine.precision=fp32|bf16", "fp64 too, with engine=local"),
            ("optimizer=adamw|sgd", "and optimizer.lr=, optimizer.clip=, …"),
            ("first_stage=RUN[@STEP]", "the autoencoder that a diffusion run works on"),
            ("init=RUN[@STEP]", "begin from another run's weights"),
            *_WHERE,
            ("KEY=VALUE", "any key of the config, such as data.path=DIR or batch=16"),
        ),
        (
            "train config=tiny/hvdm_autoencoder",
            "train config=tiny/hvdm_diffusion cluster.workers=2 engine=deepspeed engine.zero=2",
            "train config=tiny/hvdm_autoencoder cluster=inline steps=20 run=/tmp/try",
        ),
    ),
    Verb(
        "sample",
        "draws videos from a run: mp4, gif and a contact sheet",
        "launcher.commands:sample",
        (
            ("run=RUN[@STEP]", "the run; its newest valid checkpoint unless told"),
            ("what=clip", "what to draw"),
            ("count=N", "how many; default 8"),
            ("steps=N", "sampling steps; default the config's"),
            ("seed=N", "default 0; sample i depends on the seed and on i alone"),
            ("out=DIR", "default RUN/samples/step-…"),
        ),
        ("sample run=runs/tiny/hvdm_diffusion what=clip count=8",),
    ),
    Verb(
        "evaluate",
        "measures a run under a named protocol, in a job of its own",
        "launcher.commands:evaluate",
        (
            ("run=RUN[@STEP]", "the run; its newest valid checkpoint unless told"),
            ("protocol=NAME", "reconstruction@1 or fvd/tf-reference@1"),
            ("detector=NAME", "the network of a Fréchet distance; untrained only by name"),
            ("clips=N", "how many clips, instead of the protocol's number"),
            ("steps=N", "sampling steps; default the config's"),
            ("seed=N", "of the samples; default 0"),
            ("workers=N", "short for cluster.workers=N"),
            *_WHERE,
        ),
        (
            "evaluate run=runs/tiny/hvdm_autoencoder protocol=reconstruction@1 workers=2",
            "evaluate run=runs/tiny/hvdm_diffusion protocol=fvd/tf-reference@1 detector=untrained",
        ),
    ),
    Verb(
        "compare",
        "two evaluation results side by side; refuses unequal protocols",
        "launcher.commands:compare",
        (("A B", "two result files of RUN/evaluations/"),),
        ("compare runs/a/evaluations/X.json runs/b/evaluations/Y.json",),
    ),
    Verb(
        "report",
        "one page about a run, for any browser: curves, clips, evaluations, events",
        "launcher.reporting:report",
        (("run=RUN", "the run folder"), ("--json", "the same as data, without the page")),
        ("report run=runs/tiny/hvdm_autoencoder",),
    ),
    Verb(
        "doctor",
        "what works on this machine, and what to do about what does not",
        "launcher.doctor:doctor",
        (("--json", "every check as data"),),
        ("doctor", "doctor --json"),
    ),
    Verb(
        "plan",
        "memory per GPU, what fits, how fast, how long, before anything is rented",
        "launcher.plan:plan",
        (
            ("config=NAME", "the run that is planned"),
            ("gpus=N", "default 8"),
            ("gpu=a100|h100|h200", "default h100; of 80, 80 and 141 GB"),
            ("mfu=SHARE", "of the peak that is reached; 0.3 unless told: measure yours"),
            ("KEY=VALUE", "any key of the config, such as engine.precision=bf16"),
            ("--json", "as data"),
        ),
        (
            "plan config=tiny/hvdm_diffusion gpus=2",
            "plan config=tiny/hvdm_autoencoder gpus=8 gpu=h200 engine=deepspeed "
            "engine.zero=2 engine.precision=bf16 model.width=768 batch=64",
        ),
    ),
    Verb(
        "models",
        "every recipe: parameters per network, multiply-adds, latent shape",
        "launcher.models:models",
        (
            ("config=NAME", "only this one, and then any key of it, such as model.width=256"),
            ("--json", "as data"),
        ),
        ("models", "models config=tiny/hvdm_diffusion --json"),
    ),
    Verb(
        "checkpoint list",
        "the checkpoints of a run: step, size, time; hashes with --json",
        "launcher.checkpoints:list_",
        (
            ("run=RUN", "the run folder"),
            ("--json", "with a sha256 over each network's weights, optimizer state and EMA"),
        ),
        ("checkpoint list run=runs/tiny/hvdm_autoencoder --json",),
    ),
    Verb(
        "checkpoint verify",
        "reads every byte of every checkpoint against its manifest",
        "launcher.checkpoints:verify",
        (("run=RUN", "the run folder"), ("--json", "as data")),
        ("checkpoint verify run=runs/tiny/hvdm_autoencoder",),
    ),
    Verb(
        "checkpoint diff",
        "how far two runs are apart: relative to the weights, and to the way they have gone",
        "launcher.checkpoints:diff",
        (
            ("A B", "two runs, each RUN or RUN@STEP"),
            ("base=RUN[@STEP]", "where they began, instead of the initial weights"),
            ("kind=master", "what to compare: master, ema, or a state of the optimizer"),
            ("--json", "as data"),
        ),
        ("checkpoint diff runs/a runs/b@100 --json",),
    ),
    Verb(
        "data synthetic",
        "makes a data set of moving shapes, as WebDataset shards with manifest and index",
        "launcher.data:synthetic",
        (
            ("out=DIR", "where to; default datasets/shapes"),
            ("train=N", "clips to train on; default 256"),
            ("test=N", "clips held out; default 64"),
            ("frames=N height=N width=N fps=N", "default 16, 32, 32, 8"),
            ("per_shard=N", "clips in a shard; default 32"),
            ("seed=N", "equal arguments give equal bytes"),
            ("workers=N", "processes; default 1"),
        ),
        ("data synthetic out=datasets/shapes train=256 test=64",),
    ),
    Verb(
        "data verify",
        "reads a data set whole: sizes, hashes, counts, every frame of every clip",
        "launcher.data:verify",
        (
            ("path=DIR", "the data set"),
            ("decode=true|false", "decode every frame; default true"),
            ("--json", "as data"),
        ),
        ("data verify path=datasets/shapes",),
    ),
)

VERBS = {verb.name: verb for verb in _ALL}
