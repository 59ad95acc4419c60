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
        "demo",
        "clips, shards, two models, samples, an evaluation and a report, in minutes on two cores",
        "launcher.demo:demo",
        (
            ("out=DIR", "where to; default runs/demo. What is there already is used"),
            ("steps=N", "train both models for N steps only"),
            ("clips=N", "evaluate N clips only"),
            ("--json", "the three figures and where everything lies; progress goes to stderr"),
        ),
        ("demo", "demo out=/tmp/demo", "demo out=/tmp/quick steps=4 clips=4"),
    ),
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
            ("resume=auto|must|never|STEP", "go on from the newest; from a step; from none"),
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
        "draws videos from a run: mp4, gif, and a sheet with what was asked under each",
        "launcher.sampling:sample",
        (
            ("run=RUN[@STEP]", "the run; its newest valid checkpoint unless told"),
            ("what=clip|long|image|dynamics", "a clip; clips that go on; a picture that moves;"),
            ("", "motion of a given strength"),
            ("count=N batch=N", "how many, and how many at a time; default 8 and 8"),
            ("seed=N", "default 0; video i depends on the seed and on i alone"),
            ("steps=N sampler=ddim|ddpm|dpm++2m eta=F", "default the config's"),
            ("frames=N", "what=long: how long; default 8 clips"),
            ("reuse=latent|pixels", "what=long: the clip before as it was drawn, or decoded and"),
            ("", "encoded again; default latent"),
            ("overlap=N", "what=long: frames that decoded tiles share; default a quarter clip"),
            ("image=FILE fit=crop|pad", "the first frame: any picture, its centre cropped to the"),
            ("", "clip's aspect, or all of it with its border repeated around it"),
            ("motion=slow|medium|fast|0..1", "the share of training clips that move less; several"),
            ("", "with commas are taken in turn"),
            ("label=N", "the class, where the run was trained with labels; several in turn"),
            ("guidance=W", "(1 + W) told - W untold; guidance.past=, guidance.image=,"),
            ("", "guidance.motion=, guidance.label= for one of them"),
            ("size=HxW", "what=clip|long: whole multiples of the model's size, decoded by tiles"),
            ("write=mp4,gif,frames", "default mp4,gif; frames are a folder of png files"),
            ("fps=N", "default 8"),
            ("out=DIR", "default RUN/samples/step-…"),
            ("workers=N", "short for cluster.workers=N, on this machine"),
            *_WHERE,
            ("--json", "what was drawn, from which weights, and the files"),
        ),
        (
            "sample run=runs/tiny/hvdm_diffusion count=8",
            "sample run=RUN what=long frames=128 count=2 workers=2",
            "sample run=RUN what=image image=photo.jpg motion=slow,fast count=4",
            "sample run=RUN what=dynamics motion=slow,medium,fast count=6 guidance.motion=1",
        ),
    ),
    Verb(
        "evaluate",
        "measures a run, or clips from anywhere, under named protocols",
        "launcher.evaluate:evaluate",
        (
            ("run=RUN[@STEP]", "the run; its newest valid checkpoint unless told"),
            ("protocol=NAME[,NAME…]", "what to measure; a wrong name lists them all"),
            ("generated=X real=Y", "instead of a run: folders of clips, shards, two .npy files of"),
            ("", "features, or python:FILE.py:FUNCTION; real= goes with a run too"),
            ("detector=NAME", "the network of the features; untrained only by name"),
            ("weights=DIR", "where files of weights lie; see hvdm weights list"),
            ("average=ema|raw|both", "averaged weights or those that were trained; default ema"),
            ("watch=true", "follow the run: every committed checkpoint once, to its end"),
            ("clips=N", "how many clips, instead of the protocol's number"),
            ("frames=N stride=N size=HxW", "of the clips, where the protocol leaves them open"),
            ("seed=N steps=N", "of the samples; default 0, and the config's steps"),
            ("what=clip sample.KEY=VALUE", "what to sample, as in hvdm sample"),
            ("extrapolate=true", "the Fréchet distance at no sample-size bias as well"),
            ("again=true", "measure anew what is known already"),
            ("out=DIR", "where the result goes; default RUN/evaluations, or ./evaluations"),
            ("workers=N", "short for cluster.workers=N"),
            *_WHERE,
        ),
        (
            "evaluate run=runs/tiny/hvdm_autoencoder protocol=reconstruction@1 workers=2",
            "evaluate run=runs/tiny/hvdm_diffusion protocol=fvd/tf-reference@1 detector=untrained",
            "evaluate real=clips/real generated=clips/made protocol=fvd/stylegan-v@1 weights=DIR",
            "evaluate real=a.npy generated=b.npy protocol=features@1",
        ),
    ),
    Verb(
        "compare",
        "two evaluation results side by side; refuses unequal protocols",
        "launcher.evaluate:compare",
        (
            ("A B", "two result files of RUN/evaluations/"),
            ("force=true", "compare all the same what was measured differently"),
            ("--json", "as data"),
        ),
        ("compare runs/a/evaluations/X.json runs/b/evaluations/Y.json",),
    ),
    Verb(
        "weights fetch",
        "downloads a detector's weights, and pins them by sha256",
        "launcher.evaluate:weights_fetch",
        (
            ("name=NAME", "which; see hvdm weights list"),
            ("weights=DIR", "where to; default $HVDM_WEIGHTS, or hvdm/weights in the cache"),
            ("sha256=HASH", "refuse any other file, and pin this one"),
            ("url=URL", "from somewhere else"),
        ),
        ("weights fetch name=inception", "weights fetch name=i3d weights=/data/weights"),
    ),
    Verb(
        "weights list",
        "which files of weights there are, where they come from, and what is wrong with them",
        "launcher.evaluate:weights_list",
        (
            ("weights=DIR", "default $HVDM_WEIGHTS, or hvdm/weights in the cache"),
            ("--json", "as data"),
        ),
        ("weights list", "weights list weights=/data/weights --json"),
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
        "checkpoint prune",
        "removes old checkpoints; never one that is pinned, leased, or the newest that verifies",
        "launcher.checkpoints:prune",
        (
            ("run=RUN", "the run folder"),
            ("keep=N", "the last N stay; default the run's checkpoint.keep"),
            ("keep_every=N", "the first after each N samples stays; default the run's"),
            ("pinned=STEP[,STEP…]", "these stay"),
            ("dry=true", "only say what would go"),
            ("--json", "as data"),
        ),
        ("checkpoint prune run=runs/tiny/hvdm_autoencoder keep=1 dry=true",),
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
        "checkpoint import",
        "makes run folders from files of the public HVDM or PVDM code",
        "launcher.released:import_",
        (
            ("from=hvdm|pvdm", "whose files they are"),
            ("autoencoder=FILE", "a state dict, .pth or .safetensors; no code in it is run"),
            ("diffusion=FILE", "the same of the U-Net; take the average, ema_model_*.pth"),
            ("run=DIR", "the new run folder; with both files, the autoencoder is below it"),
            ("first_stage=RUN", "the autoencoder's run, where only diffusion= is given"),
            ("data.path=DIR", "the data set to evaluate on, and other keys of data"),
            ("--json", "what was read, as data"),
        ),
        (
            "checkpoint import from=hvdm autoencoder=ae.pth diffusion=ema.pth run=runs/public",
            "checkpoint import from=pvdm autoencoder=ae.pth run=runs/pvdm_public",
        ),
    ),
    Verb(
        "checkpoint export",
        "writes a run's weights under the public code's names, or under ours",
        "launcher.released:export",
        (
            ("run=RUN[@STEP]", "the run; its newest valid checkpoint unless told"),
            ("to=hvdm|pvdm|safetensors", "the public names, or ours"),
            ("autoencoder=FILE", "with public names: .safetensors, or a torch file"),
            ("diffusion=FILE", "the same for the U-Net"),
            ("out=DIR", "with our names: one file for each network"),
            ("ema=true|false", "averaged weights where the run keeps them; default true"),
        ),
        ("checkpoint export run=runs/public to=hvdm diffusion=unet.pth",),
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
        "data shard",
        "videos or pictures become shards; killed and started again, it goes on",
        "launcher.data:shard",
        (
            ("source=WHERE", "a folder, a glob, or a list (.txt, .csv, .jsonl: captions, labels)"),
            ("out=DIR", "the data set; new sources append new shards to it"),
            ("layout=NAME", "ucf101, skytimelapse, taichi-hd, celeba, cifar10: official splits"),
            ("mode=clips|full|images", "cut at scene changes; whole videos as they are; pictures"),
            ("size=N", "shorter side of stored clips, default 256; or height=N width=N"),
            ("clip_frames=N min_frames=N fps=N", "default 64, 16, and the source's own rate"),
            ("crf=N gop=N scenes=true|false", "default 18, 16, true"),
            ("min_side= min_motion= max_motion= black= static=", "filters; see docs/data.md"),
            ("duplicates=drop|keep damaged=quarantine|repair", "default drop, quarantine"),
            ("test=F seed=N per_shard=N", "default 0.1, 0, 256; split by source video"),
            ("limit_s=N", "how long one video may take; default 600"),
            ("workers=N, or cluster=local|existing", "processes, or a Ray cluster: equal bytes"),
            ("--json", "as data"),
        ),
        ("data shard source=videos/ out=datasets/mine size=256 workers=2",),
    ),
    Verb(
        "data verify",
        "is a data set what its manifest says: sizes and hashes, or every frame",
        "launcher.data:verify",
        (
            ("DIR, or path=DIR", "the data set, or one split of it"),
            ("full=true|false", "decode every frame of every clip; default false"),
            ("workers=N, or cluster=local|existing", "processes, or a Ray cluster"),
            ("--json", "as data"),
        ),
        ("data verify datasets/shapes full=true",),
    ),
    Verb(
        "data repair",
        "restores damaged shards: from a copy, or without the samples that are lost",
        "launcher.data:repair",
        (
            ("DIR, or path=DIR", "the data set"),
            ("source=DIR", "a copy to take damaged shards from; else lost samples are taken out"),
            ("--json", "as data"),
        ),
        ("data repair datasets/shapes source=/backup/shapes",),
    ),
    Verb(
        "data stats",
        "clips, sources, lengths, sizes, classes and motion of each split",
        "launcher.data:stats",
        (("DIR, or path=DIR", "the data set"), ("--json", "as data")),
        ("data stats datasets/shapes",),
    ),
    Verb(
        "data preview",
        "contact sheets, and a page that plays clips",
        "launcher.data:preview",
        (
            ("DIR, or path=DIR", "the data set"),
            ("count=N seed=N", "how many clips of each split, default 24; which, default 0"),
            ("out=DIR", "default DIR/preview"),
        ),
        ("data preview datasets/shapes count=12",),
    ),
    Verb(
        "data reshard",
        "the same samples in shards of another size, in another order if a seed is given",
        "launcher.data:reshard",
        (
            ("DIR, or path=DIR", "the data set"),
            ("out=DIR", "where to"),
            ("per_shard=N seed=N", "default 256, and the order as it is"),
            ("workers=N", "processes; default 1"),
        ),
        ("data reshard datasets/shapes out=datasets/other per_shard=64",),
    ),
    Verb(
        "data merge",
        "several data sets as one; equal keys are refused",
        "launcher.data:merge",
        (("A B …", "the data sets"), ("out=DIR", "where to"), ("workers=N", "processes")),
        ("data merge datasets/a datasets/b out=datasets/both",),
    ),
    Verb(
        "data diff",
        "which samples two data sets share, and which they do not",
        "launcher.data:diff",
        (("A B", "two data sets"), ("--json", "as data")),
        ("data diff datasets/a datasets/b",),
    ),
    Verb(
        "data encode",
        "clips become the latents of a frozen first stage",
        "launcher.data:encode",
        (
            ("DIR, or path=DIR", "the data set"),
            ("out=DIR", "where to"),
            ("first_stage=RUN[@STEP]", "the autoencoder; its weights' hash goes into the manifest"),
            ("stride=N", "between the first frames of two latents; default a clip's length"),
            ("workers=N, or cluster=local|existing", "processes, or a Ray cluster"),
        ),
        ("data encode datasets/shapes out=datasets/latents first_stage=runs/autoencoder",),
    ),
    Verb(
        "completion",
        "completion of verbs, keys, configs and choices for bash, zsh or fish",
        "launcher.completion:completion",
        (("bash|zsh|fish", "prints the script for that shell"),),
        (
            "completion bash >> ~/.bashrc",
            "completion zsh >> ~/.zshrc",
            "completion fish > ~/.config/fish/completions/hvdm.fish",
        ),
    ),
)

VERBS = {verb.name: verb for verb in _ALL}
