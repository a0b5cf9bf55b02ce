# Every target does its own set-up where it is missing; a second call spends no time on it.
.DEFAULT_GOAL := help
.ONESHELL:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where this is set, each process compiles Siftline's sources anew.
unexport PYTHONDONTWRITEBYTECODE

# The first Python of the supported range (3.11 to 3.13) that is on this machine.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STUDIO_VENV := .venv-labelstudio
DEMO := examples/reuters
# One more than the two cores of CI: much of a test's time is waiting for servers and clocks.
JOBS ?= 3

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

# The packages of one list of pyproject.toml, without Siftline itself, whose kernel would be compiled each time.
define install
$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]$(1), sep="\n")' \
	> $(VENV)/.packages
$(BIN)/pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --requirement $(VENV)/.packages
endef

NATIVE := $(wildcard engine/kernels/native/*.cpp engine/kernels/native/*.h engine/kernels/native/*.inl)

$(VENV)/.base: pyproject.toml constraints.txt $(NATIVE)
	@if [ -z "$(PYTHON)" ]; then
		echo "Siftline needs Python 3.11, 3.12 or 3.13 with venv. On Debian or Ubuntu: apt-get install python3-venv" >&2
		exit 2
	fi
	echo "Setting up $(VENV) with $$($(PYTHON) --version), once:"
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	echo "  packages (2 minutes, more by a slow line) ..."
	$(call install,["dependencies"])
	echo "  Siftline itself, whose native kernel is compiled (half a minute) ..."
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Adding the development tools (1 to 2 minutes) ..."
	$(call install,["optional-dependencies"]["dev"])
	touch $@

$(STUDIO_VENV)/.done: constraints-labelstudio.txt
	@echo "Setting up $(STUDIO_VENV) for Label Studio (minutes, once) ..."
	[ -x $(STUDIO_VENV)/bin/python ] || $(PYTHON) -m venv $(STUDIO_VENV)
	$(STUDIO_VENV)/bin/pip install --quiet $(PIP_FLAGS) --constraint constraints-labelstudio.txt label-studio
	touch $@

.PHONY: setup
setup: $(VENV)/.dev ## Create .venv with everything for development

.PHONY: native
native: ## Build the compiled forward in a worktree, with PYTHON=...
	@$(PYTHON) -c 'from setuptools import setup; setup()' --quiet build_ext --inplace

.PHONY: demo
demo: $(VENV)/.base ## Run the demo on Reuters R8: four cycles, summary, report
	@$(BIN)/siftline samples get reuters-r8 --output $(DEMO)/data
	$(BIN)/siftline run --project $(DEMO) --annotator simulated
	$(BIN)/siftline report --project $(DEMO)

.PHONY: studio-env
studio-env: $(STUDIO_VENV)/.done ## Create the separate environment of Label Studio

.PHONY: studio
studio: $(VENV)/.base $(STUDIO_VENV)/.done ## Start a local Label Studio with the demo's queue loaded
	@$(BIN)/siftline samples get reuters-r8 --output $(DEMO)/data
	$(BIN)/siftline studio up --project $(DEMO) --load

.PHONY: chromium
chromium:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && exit 0
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "Installing chromium and chromium-driver for the browser tests ..."
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y chromium chromium-driver >/dev/null
	else
		echo "The browser tests need chromium and chromium-driver: apt-get install chromium chromium-driver" >&2
		exit 2
	fi

.PHONY: postgres
postgres: | chromium # one after the other: apt-get lets nobody in while it installs
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && exit 0
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		echo "Installing postgresql for the tests of its catalogue ..."
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y postgresql >/dev/null
	else
		echo "The tests of the PostgreSQL catalogue need its server: apt-get install postgresql" >&2
		exit 2
	fi

.PHONY: test
test: $(VENV)/.dev $(STUDIO_VENV)/.done chromium postgres ## Run all tests but the heavy ones, integration included
	@# A quarter of what tests of the warehouse and of Label Studio take is the disk's word that it has what they wrote.
	# In memory, where it has room, they do not wait for it, and only what belongs to a failed test is kept.
	room=$$(awk '/^MemAvailable/ {print int($$2 / 1048576)}' /proc/meminfo || true)
	shm=$$(awk '$$2 == "/dev/shm" {it = $$4 ~ /noexec/ ? "" : $$2} END {print it}' /proc/mounts || true)
	if [ -z "$${TMPDIR:-}" ] && [ -n "$$shm" ] && [ "$${room:-0}" -ge 12 ] &&
		[ "$$(df --output=avail --block-size=1G "$$shm" | tail -n 1)" -ge 8 ]; then
		export TMPDIR="$$shm"
	fi
	# Threads that wait for their like spin by default; with more workers than cores, in place of a test.
	export OMP_WAIT_POLICY=passive OPENBLAS_THREAD_TIMEOUT=4
	$(BIN)/pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder -o tmp_path_retention_policy=failed

.PHONY: lint
lint: $(VENV)/.dev ## Style, types and the import contract
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

.PHONY: bench
bench: $(VENV)/.base ## Measure the bars of the demo and print JSON
	@$(BIN)/python -m benchmarks.demo

.PHONY: clean-demo
clean-demo: ## Forget the demo's warehouse, tasks and report, not its data
	@rm -rf $(DEMO)/lake $(DEMO)/tasks $(DEMO)/.siftline $(DEMO)/report.html
