# csm-serve on CUDA. Run it with:
#   docker run --gpus all -p 8000:8000 -e API_KEY=... -e HF_TOKEN=... \
#     -v csm-cache:/cache -v csm-voices:/app/voices csm-serve
#
# The "base" flavour of CUDA is enough: it has the runtime, the settings that the NVIDIA container toolkit looks for and
# the compatibility libraries for older drivers. cuBLAS, cuDNN and NCCL come with torch from the lock, in the versions
# that torch was built for; "runtime" would bring them a second time, two gigabytes that nothing loads.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE}

# torch.compile builds its launchers at start with a C compiler and Python's headers.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton

WORKDIR /app

# A layer that changes only with the lock.
COPY requirements-bootstrap.txt requirements.lock ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --require-hashes -r requirements-bootstrap.txt \
    && uv pip install --python /opt/venv/bin/python --no-cache --no-deps --compile-bytecode --require-hashes \
        -r requirements.lock

COPY LICENSE README.md pyproject.toml gunicorn.conf.py ./
COPY preloaded-voices preloaded-voices
COPY models models
COPY engine engine
COPY training training
COPY app app
RUN uv pip install --python /opt/venv/bin/python --no-cache --no-deps --no-build-isolation --editable . \
    && useradd --uid 10001 --no-create-home --home-dir /cache csm \
    && install --directory --owner csm --group csm /cache /app/voices

USER csm
VOLUME ["/cache", "/app/voices"]
EXPOSE 8000

# Alive while it downloads and loads too; /readyz says when it can speak.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.getenv('PORT', '8000') + '/livez', timeout=4)"]

CMD ["csm-serve", "serve"]
