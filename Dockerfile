# hvdm on CUDA. Build: docker build -t hvdm .   Run: docker run --gpus all --shm-size=8g hvdm doctor
# The devel image, not runtime: DeepSpeed and Triton compile on first use (g++, nvcc, headers).
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 hvdm && install -d -o hvdm -g hvdm /opt/hvdm /work
USER 10001
WORKDIR /opt/hvdm

ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    HVDM_EXTENSIONS_DIR=/opt/hvdm/extensions \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_USAGE_STATS_ENABLED=0

RUN python3 -m venv .venv-tools && .venv-tools/bin/python -m pip install --no-cache-dir uv==0.13.8

# The libraries change seldom and weigh gigabytes: a layer of their own.
COPY --chown=hvdm:hvdm pyproject.toml uv.lock ./
RUN .venv-tools/bin/uv sync --frozen --no-dev --no-install-project --python /usr/bin/python3 \
    && .venv-tools/bin/uv cache clean

COPY --chown=hvdm:hvdm . .
RUN .venv-tools/bin/uv sync --frozen --no-dev --no-editable --python /usr/bin/python3 \
    && .venv-tools/bin/uv cache clean
ENV PATH=/opt/hvdm/.venv/bin:$PATH

# DeepSpeed's CPU operator, which would otherwise be built by the first run of every container.
RUN python -m launcher.doctor.probing deepspeed

WORKDIR /work
ENTRYPOINT ["hvdm"]
CMD ["--help"]
