"""The verbs for clusters; part of the table in `verbs`."""

from launcher.verb import Verb

CLUSTER_VERBS = (
    Verb(
        "submit",
        "hvdm train as a job on a cluster: checked here, run there, its output shown here",
        "launcher.remote.jobs:submit",
        (
            ("config=NAME", "as in hvdm train; a YAML file has to lie where the cluster sees it"),
            ("address=http://HEAD:8265", "the head's dashboard; default $RAY_API_SERVER_ADDRESS"),
            ("follow=true|false", "show its output until it ends; default true"),
            ("working_dir=DIR", "a folder that Ray copies to the job, for modules of your own"),
            ("command=hvdm", "how hvdm is called there"),
            ("KEY=VALUE", "any key of hvdm train; paths are made whole from here"),
            ("--json", "the job's name and command as data, without following it"),
        ),
        (
            "submit config=tiny/hvdm_autoencoder address=http://head:8265 cluster.workers=8",
            "submit config=mine.yaml working_dir=. follow=false",
        ),
    ),
    Verb(
        "jobs list",
        "the jobs of a cluster: name, state, run",
        "launcher.remote.jobs:list_",
        (("address=http://HEAD:8265", "the head's dashboard"), ("--json", "as data")),
        ("jobs list address=http://head:8265",),
    ),
    Verb(
        "jobs logs",
        "what a job has printed",
        "launcher.remote.jobs:logs",
        (
            ("JOB", "its name; see hvdm jobs list"),
            ("follow=true|false", "go on until it ends; default false"),
            ("address=http://HEAD:8265", "the head's dashboard"),
        ),
        ("jobs logs train-sky address=http://head:8265 follow=true",),
    ),
    Verb(
        "jobs stop",
        "stops a job after the step that it is in, with a checkpoint",
        "launcher.remote.jobs:stop",
        (("JOB", "its name; see hvdm jobs list"), ("address=http://HEAD:8265", "the dashboard")),
        ("jobs stop train-sky address=http://head:8265",),
    ),
    Verb(
        "cluster template",
        "what to hand to Slurm, to Kubernetes, or to cloud machines for a run",
        "launcher.remote.templating:template",
        (
            ("slurm|kuberay|vm", "an sbatch script, a RayJob, or a file for ray up"),
            ("config=NAME", "the run, and any key of it; cluster.workers gives the nodes"),
            ("workers_per_node=N", "default 8; GPUs and CPUs follow from the config's per worker"),
            ("out=FILE", "default: printed"),
            ("time=D-HH:MM:SS grace_s=N", "Slurm: default a day; how long before its end it stops"),
            ("setup=COMMAND", "Slurm: a line before all others, such as source .venv/bin/activate"),
            ("image=NAME storage=DIR", "Kubernetes and cloud: default hvdm:latest, /mnt/hvdm"),
            ("claim=NAME memory=SIZE", "Kubernetes: default hvdm-storage, 64Gi"),
            ("machine=TYPE region=NAME", "cloud: default p5.48xlarge, us-west-2"),
        ),
        (
            "cluster template slurm config=tiny/hvdm_autoencoder cluster.workers=8 out=job.sh",
            "cluster template kuberay config=tiny/hvdm_autoencoder batch=64 cluster.workers=16",
        ),
    ),
    Verb(
        "cluster status",
        "the nodes of a running cluster, and what they have",
        "launcher.remote.status:status",
        (
            ("address=HOST:PORT", "the head; default the cluster that this machine belongs to"),
            ("nodes=N wait_s=S", "wait until there are as many; exit code 1 if they do not come"),
            ("--json", "as data"),
        ),
        ("cluster status", "cluster status address=head:6379 nodes=4 wait_s=300"),
    ),
)
