# Two commands matter: `make serve` and `make test`. `make help` lists the rest.
# PYTHON chooses the interpreter of a new .venv, PORT and HOST where to listen, MODEL what to serve, ARGS goes to pytest,
# uv or the soak.

BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_DEV := .venv/.installed-dev

# Where it is set, as in many containers, each of the hundreds of processes that tests start would compile all that it
# imports: six seconds for torch alone.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install serve test test-cluster test-fast check format soak bench trace site lock test-fresh image test-image clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv and install the locked dependencies

# uv installs in seconds what takes pip minutes. Neither is told an index: both follow the user's own settings.
# --no-deps: the lock is complete, and it overrides caps of moshi's that uv would otherwise enforce.
$(INSTALLED): requirements.lock requirements-bootstrap.txt pyproject.toml scripts/make-venv
	@PYTHON="$(PYTHON)" sh scripts/make-venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(INSTALLED_DEV): requirements-dev.lock $(INSTALLED)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

serve: $(INSTALLED) ## Start the service (MODEL=unsloth/csm-1b, PORT=9001 and HOST=0.0.0.0 work)
	@test -e .env || $(BIN)/python scripts/write_env.py
	@$(if $(HOST),HOST=$(HOST)) $(if $(PORT),PORT=$(PORT)) $(if $(MODEL),MODEL_PATH='$(MODEL)') exec $(BIN)/csm-serve serve

# Most tests wait for processes of their own; files are shared out among one process more than there are cores, in the
# order of tests/conftest.py.
PARALLEL := -n $(shell n=$$(nproc); [ $$n -lt 4 ] && echo $$((n + 1)) || echo 4) --dist loadfile \
	--no-loadscope-reorder

test: $(INSTALLED_DEV) ## Run every test (ARGS="-k name" narrows it, ARGS="-n 0" takes one process)
	$(BIN)/python -m pytest $(PARALLEL) --durations=10 $(ARGS)

test-cluster: $(INSTALLED_DEV) ## Run the tests of the service on three Ray nodes, in six minutes
	CLUSTER_TESTS=all $(BIN)/python -m pytest tests/cluster/test_service.py tests/cluster/test_serve_deploy.py $(ARGS)

test-fast: $(INSTALLED_DEV) ## Run the tests that need no model, no browser and no server, in under a minute
	$(BIN)/python -m pytest --quiet @tests/fast.txt $(ARGS)

check: $(INSTALLED_DEV) ## Check format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(INSTALLED_DEV) ## Format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: $(INSTALLED_DEV) ## Ten minutes of load, kills and bad clients on loopback (SOAK_MINUTES=2 is shorter)
	$(BIN)/python -m scripts.soak --minutes $(or $(SOAK_MINUTES),10) $(ARGS)

bench: $(INSTALLED_DEV) ## Measure on a GPU in ten minutes (ARGS=--cpu or --tiny without one)
	$(BIN)/python -m bench.gpu $(ARGS)

trace: $(INSTALLED) ## Every step of one request, from socket to sound, in ms (ARGS="--serve PATH")
	$(BIN)/python -m bench.trace $(ARGS)

COMPILE = $(BIN)/uv pip compile --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-header --no-annotate --quiet

site: $(INSTALLED_DEV) ## Build the documentation as a site, in build/site
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lock: $(INSTALLED) ## Update both locks (ARGS=--upgrade takes newer releases)
	$(COMPILE) pyproject.toml --extra train --extra dev $(ARGS) --output-file requirements-dev.lock
	grep -oE '^[A-Za-z0-9._-]+==[^ ]+' requirements-dev.lock | \
		$(COMPILE) pyproject.toml --extra train --constraint /dev/stdin --output-file requirements.lock
	echo uv | $(COMPILE) - $(ARGS) --output-file requirements-bootstrap.txt

test-fresh: $(INSTALLED) ## Both commands on bare Debian systems, as root (ARGS=--quick, SYSTEMS="trixie testing", ARCH=arm64)
	$(if $(SYSTEMS),SYSTEMS="$(SYSTEMS)") $(if $(ARCH),ARCH="$(ARCH)") $(BIN)/python -m scripts.test_fresh $(ARGS)

image: ## Build the image with docker, podman or buildah (IMAGE=name:tag, ARGS="--build-arg BASE=debian:trixie")
	@scripts/build-image --tag $(or $(IMAGE),csm-serve) $(ARGS)

test-image: $(INSTALLED) ## Build the image with buildah and speak with it, as root (ARGS="--stand-in trixie")
	$(BIN)/python -m scripts.test_image $(ARGS)

clean: ## Remove .venv and what tools left behind
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find app bench cluster engine scripts tests training -name __pycache__ -type d -prune -exec rm -rf {} +
