# csm-serve on CUDA. Run it with:
#   docker run --gpus all -p 8000:8000 -e API_KEY=... -e HF_TOKEN=... \
#     -v csm-cache:/cache -v csm-voices:/app/voices csm-serve
#
# The "base" flavour of CUDA is enough: it has the runtime, the settings that the NVIDIA container toolkit looks for and
# the compatibility libraries for older drivers. cuBLAS, cuDNN and NCCL come with torch from the lock, in the versions
# that torch was built for; "runtime" would bring them a second time, two gigabytes that nothing loads.
ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE}

# torch.compile needs compilers and Python's headers at start: Triton compiles launchers in C, Inductor kernels for the
# CPU in C++.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ libc6-dev python3 python3-dev python3-venv \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/* /usr/lib/python3*/config-*/libpython*.a

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    TRITON_CACHE_DIR=/cache/triton

WORKDIR /app

# A layer that changes only with the lock. On x86-64 (on ARM the lock has torch for a CPU, and nothing of CUDA) the wheels
# contain 1.7 GB that is never loaded:
# - symbols and debug information of Triton's compiler, torch and NCCL
# - Triton's profiler with its own CUPTI, its disassemblers (compiling needs ptxas alone) and its instrumentation
# - libtorch_cuda_linalg, which torch opens for the first factorisation or solution of a linear system on a GPU (neither
#   serving nor training has one), and cuSOLVER, which that library alone is linked to. torch preloads cuSOLVER and what
#   comes after it by name: an empty library stands in its place
# - the alternative NVRTC, NVSHMEM for kernels, CUPTI's hardware counters: no library is linked to them
# - static libraries and headers of CUDA (Triton brings the headers that it compiles against)
# - protoc, C++ sources that Cython generated, tests
COPY requirements-bootstrap.txt requirements.lock ./
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --require-hashes -r requirements-bootstrap.txt \
    && uv pip install --python /opt/venv/bin/python --no-cache --no-deps --compile-bytecode --require-hashes \
        -r requirements.lock \
    && pip uninstall --yes --quiet uv \
    && cd /opt/venv/lib/python3*/site-packages \
    && strip --strip-unneeded torch/lib/libtorch*.so \
    && rm -rf torch/bin/protoc* \
    && if [ "$(uname -m)" = x86_64 ]; then \
        strip --strip-unneeded triton/_C/libtriton.so nvidia/nccl/lib/libnccl.so.2 \
        && rm -rf triton/profiler triton/_C/libproton.so triton/instrumentation triton/backends/nvidia/lib/cupti \
            triton/backends/nvidia/bin/cuobjdump triton/backends/nvidia/bin/nvdisasm \
            nvidia/cusolver/lib torch/lib/libtorch_cuda_linalg.so nvidia/cuda_nvrtc/lib/*.alt.so.* \
            nvidia/nvshmem/lib/libnvshmem_device.* nvidia/cuda_cupti/lib/libnvperf_* nvidia/*/include \
        && mkdir nvidia/cusolver/lib && gcc -shared -x c /dev/null -o nvidia/cusolver/lib/libcusolver.so.11 \
        && find nvidia -name '*.a' -delete \
        && find cuda/bindings -name '*.cpp' -delete; \
    fi \
    && find matplotlib numpy sympy -type d -name tests -prune -exec rm -r {} +

# What a change of the code does not touch comes first: a push then sends the few megabytes below the models alone.
RUN useradd --uid 10001 --no-create-home --home-dir /cache csm \
    && install --directory --owner csm --group csm /cache /app/voices
COPY preloaded-voices preloaded-voices
COPY models models
COPY LICENSE README.md pyproject.toml gunicorn.conf.py ./
COPY clients clients
COPY training training
COPY engine engine
COPY app app
COPY cluster cluster
RUN pip install --no-cache-dir --no-deps --no-build-isolation --quiet --editable . \
    && python -m compileall -q app cluster engine training clients/python

USER csm
VOLUME ["/cache", "/app/voices"]
EXPOSE 8000

# Alive while it downloads and loads too; /readyz says when it can speak.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.getenv('PORT', '8000') + '/livez', timeout=4)"]

CMD ["csm-serve", "serve"]
