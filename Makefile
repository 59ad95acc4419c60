# Everything starts from a machine with Python 3.11 or 3.12, git and a C++ compiler.
# A virtual environment of our own carries uv: some distributions refuse `pip install uv`.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
TOOLS := .venv-tools
UV := $(TOOLS)/bin/uv
UV_VERSION := 0.13.8
READY := $(VENV)/.ready

# Cached bytecode is most of the speed of starting a worker.
unexport PYTHONDONTWRITEBYTECODE
export RAY_ENABLE_UV_RUN_RUNTIME_ENV := 0

.PHONY: help setup demo test test-cluster lint clean bench-data bench-eval bench-checkpoints bench-overhead bench-wavediff bench-recovery bench-render bench-splat soak journeys
help:
	@echo "make demo   clips, shards, autoencoder, diffusion, samples, evaluation, report"
	@echo "make test   the tests"
	@echo "make test-cluster  hosts in network namespaces, cut off and killed: root, iproute2"
	@echo "make lint   ruff, mypy, import contracts"
	@echo "make setup  only the environment in $(VENV)"

setup: $(READY)

$(UV):
	@command -v "$(PYTHON)" >/dev/null || { echo "hvdm needs Python 3.11 or 3.12, and found none: install it (Debian: apt-get install python3 python3-venv), or name it with make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else "hvdm needs Python 3.11 or 3.12, found %d.%d: install one, or name it with make PYTHON=..." % v)'
	@command -v g++ >/dev/null || command -v c++ >/dev/null || { echo "hvdm needs a C++ compiler for DeepSpeed's CPU operator: install g++ (Debian: apt-get install g++)"; exit 1; }
	@echo "preparing uv $(UV_VERSION) in $(TOOLS)"
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): $(UV) pyproject.toml uv.lock
	@echo "preparing the environment in $(VENV): about 7.5 GB, minutes on the first time"
	@$(UV) sync --frozen --python $(PYTHON) --quiet
	@touch $@

demo: $(READY)
	@$(VENV)/bin/hvdm demo

# Two at a time on the two cores of a small machine; CORES=0 is one after the other.
CORES ?= 2
test: $(READY)
	@$(VENV)/bin/python -m pytest --numprocesses=$(CORES) --dist=loadgroup --no-loadscope-reorder \
		$(MORE)

# Workers under Ray, and hosts in network namespaces on this machine: cut off, slowed and killed.
# MORE=--last-failed does again what failed.
test-cluster: $(READY)
	@HVDM_CLUSTER=1 $(VENV)/bin/python -m pytest tests/whole/test_losses.py \
		tests/data_tools/test_shard.py::test_ray_makes_the_same_bytes tests/cluster -rs $(MORE)

bench-data: $(READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.data

lint: $(READY)
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

bench-checkpoints: $(READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.checkpoints

# The long ones: the whole matrix of engines and world sizes, twenty steps of the tiny models on all
# of them under Ray, 200 kills of a save, a minute without a store under Ray, three workers killed,
# a pipe from workers under Ray that nobody reads, networks at full size, the operations of every
# config counted, the wheel installed with all that it needs, 2,000 mutations of what strangers hand
# over, 20 kills of a sharding job, 10 of a deriving one, 20 of workers and hosts, and four hosts
# that are as one.
soak: $(READY)
	@HVDM_SOAK=1 HVDM_KILLS=200 $(VENV)/bin/python -m pytest tests/checkpoint/test_checkpoint_matrix.py \
		tests/data_tools/test_motion_volumes.py tests/recipes/test_image_dynamics_ranks.py \
		tests/checkpoint/test_checkpoint_kills.py tests/recipes/test_released.py \
		tests/whole/test_world_sizes.py tests/whole/test_outage.py tests/whole/test_whole_way.py \
		tests/launcher/verbs/test_piped.py tests/launcher/sizing/test_models.py \
		tests/house/test_wheel.py tests/fuzz
	@HVDM_KILLS=20 $(VENV)/bin/python -m pytest tests/data_tools/test_shard.py -k killed_job
	@HVDM_KILLS=10 $(VENV)/bin/python -m pytest tests/data_tools/test_derive.py -k killed_job
	@HVDM_CLUSTER=1 HVDM_KILLS=20 $(VENV)/bin/python -m pytest tests/cluster/test_losing.py -k kills -rs
	@HVDM_CLUSTER=1 HVDM_SOAK=1 $(VENV)/bin/python -m pytest tests/cluster/test_elastic.py -rs
	@bash tests/whole/journeys.sh

# A first use as it is typed, in some minutes: read what it prints.
journeys: $(READY)
	@bash tests/whole/journeys.sh

bench-eval: $(READY)
	@$(VENV)/bin/python -m benchmarks.evaluation --write

bench-overhead: $(READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.overhead --write

bench-wavediff: $(READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.wavediff --write

bench-splat: $(READY)
	@$(VENV)/bin/python -m benchmarks.splat --write

bench-render: $(READY)
	@$(VENV)/bin/python -m benchmarks.render --write

bench-recovery: $(READY)
	@OMP_NUM_THREADS=1 $(VENV)/bin/python -m benchmarks.recovery --write

clean:
	rm -rf $(VENV) $(TOOLS) build dist *.egg-info
