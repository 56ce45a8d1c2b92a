"""Packages that each stage needs, by distribution name: a GPU image is extended with these and no others.

IMAGE is what an image with PyTorch and transformers contains. tests/bench/test_gpu_packages.py imports each stage's
code where every other package is refused.
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Each of them also brings what it requires.
IMAGE = _names("einops setuptools torch transformers")
# The engine: stages first and profile, without the section tests
FIRST = _names("moshi sentencepiece")
# The section tests: tests/gpu
TESTS = FIRST | _names("""
    annotated-types iniconfig pluggy pydantic pydantic-core pydantic-settings pygments pytest pytest-timeout
    python-dotenv typing-inspection
""")
# The section http: the service and its clients
HTTP = FIRST | _names("""
    annotated-doc annotated-types anyio av click fastapi fastapi-offline gunicorn h11 httpcore httptools httpx
    nvidia-ml-py opentelemetry-api prometheus-client psutil pydantic pydantic-core pydantic-settings python-dotenv
    python-multipart starlette typing-inspection uvicorn uvicorn-worker uvloop websockets
""")
STAGES = {"first": FIRST, "tests": TESTS, "http": HTTP}
