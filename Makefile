# Two commands matter: `make serve` and `make test`. `make help` lists the rest.
# PYTHON chooses the interpreter of a new .venv, PORT and HOST where to listen, ARGS goes to pytest, uv or the soak.

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install serve test check format soak bench lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv and install the locked dependencies

# uv installs in seconds what takes pip minutes. Neither is told an index: both follow the user's own settings.
$(INSTALLED): requirements.lock requirements-bootstrap.txt pyproject.toml scripts/make-venv
	@PYTHON="$(PYTHON)" sh scripts/make-venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

serve: $(INSTALLED) ## Start the service (PORT=9001 and HOST=0.0.0.0 work)
	@test -e .env || $(BIN)/python scripts/write_env.py
	@$(if $(HOST),HOST=$(HOST)) $(if $(PORT),PORT=$(PORT)) exec $(BIN)/csm-serve serve

test: $(INSTALLED) ## Run every test (ARGS="-k name" narrows it)
	$(BIN)/python -m pytest $(ARGS)

check: $(INSTALLED) ## Check format, lint, types and import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(INSTALLED) ## Format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: $(INSTALLED) ## Ten minutes of load, kills and bad clients on loopback (SOAK_MINUTES=2 is shorter)
	$(BIN)/python -m scripts.soak --minutes $(or $(SOAK_MINUTES),10) $(ARGS)

bench: $(INSTALLED) ## Measure on a GPU in ten minutes (ARGS=--cpu or --tiny without one)
	$(BIN)/python -m bench.gpu $(ARGS)

lock: $(INSTALLED) ## Work the locks out anew (ARGS=--upgrade takes newer releases)
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra train --universal --python-version 3.10 --generate-hashes \
		--no-emit-index-url --no-header --quiet $(ARGS) --output-file requirements.lock
	echo uv | $(BIN)/uv pip compile - --universal --python-version 3.10 --generate-hashes --no-annotate \
		--no-emit-index-url --no-header --quiet $(ARGS) --output-file requirements-bootstrap.txt

clean: ## Remove .venv and what tools left behind
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find app bench engine scripts tests training -name __pycache__ -type d -prune -exec rm -rf {} +
