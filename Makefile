# The front door. `make paper` and `make test` need Python 3.11 and make, nothing else.
SHELL   := /bin/bash
PROFILE := paper
EXECUTOR :=
IS_3_11 := -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
PYTHON  := $(or $(shell for p in python3.11 python3; do $$p $(IS_3_11) && echo $$p && break; done),python3.11)
PY      := $(or $(shell $(PYTHON) workflow/environment.py),.venv/bin/python)
BIN     := $(abspath $(dir $(PY)))
ENV     := $(if $(filter .venv/%,$(PY)),.venv/ready)

# EXECUTOR=slurm|kubernetes: Snakemake's plugins lie apart, because that of SLURM slows every call of Snakemake down.
CLUSTER := $(if $(EXECUTOR),.venv-cluster/ready)

# The library is found from any folder; every notebook gets two threads everywhere, because values depend on it.
export PYTHONPATH := $(CURDIR):$(CURDIR)/workflow$(if $(EXECUTOR),:$(CURDIR)/.venv-cluster)
export PATH := $(BIN):$(PATH)
export OMP_NUM_THREADS := 2
export NUMBA_NUM_THREADS := 2
# Threads that wait must not spin: on two busy cores spinning costs more than it saves.
export OMP_WAIT_POLICY := PASSIVE
# Keep large freed blocks: returning them to the system after every step costs a fifth of the time.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 8589934592

SMOKE     := _build/smoke/book
# Snakemake stops where it cannot write its cache: in a home that is read-only it has one here. The hub's stays there.
CACHE      = $(shell c="$${XDG_CACHE_HOME:-$$HOME/.cache}"; mkdir -p "$$c/snakemake" 2>/dev/null && test -w "$$c/snakemake" \
                 || echo "XDG_CACHE_HOME='$(CURDIR)/_build/cache' HF_HOME='$${HF_HOME:-$$c/huggingface}'")
# A notebook keeps little more than one of its two threads busy: as many notebooks at once as there are cores. (One more
# filled the fifth of two cores that this leaves idle, and was no faster.)
CORES      = $(shell $(PY) -c 'import os; print(2 * len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0)))')
SNAKEMAKE  = $(CACHE) $(PY) -m snakemake --keep-going --rerun-incomplete --nolock --logger husai \
             --rerun-triggers mtime input params $(if $(EXECUTOR),--workflow-profile workflow/$(EXECUTOR),--cores $(CORES))
# NAME=VALUE pairs of the command line that are not our own switches
GIVEN      = $(strip $(foreach v,$(filter-out NB PY PYTHON,$(.VARIABLES)),\
                 $(if $(filter command,$(firstword $(origin $v))),'$v=$($v)')))
BOOK       = $(if $(filter-out paper,$(PROFILE)),_build/$(PROFILE)/)book
PDF        = _build/$(PROFILE)/pdf
SITE       = $(CURDIR)/$(if $(filter-out paper,$(PROFILE)),_build/$(PROFILE)/)_build/html

.PHONY: help env env-evals env-cluster paper cost pdf reference followups audit gate smoke test faults cluster-test \
        interop evals bench book serve check lab nb report clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

env: $(ENV)  ## make the environment (.venv), unless an active one satisfies the lock
	@echo "environment: $(BIN)"

.venv/ready: requirements.lock constraints.txt
	@$(PYTHON) $(IS_3_11) || { echo "Python 3.11 is wanted, as python3.11 or python3 on the PATH"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install -q -c constraints.txt torch
	.venv/bin/python -m pip install -q -c constraints.txt -r requirements.lock
	echo "$(CURDIR)" > .venv/lib/python3.11/site-packages/husai.pth  # for editors that start kernels themselves
	touch $@

paper: export HUSAI_COMMAND = make paper$(if $(filter-out paper,$(PROFILE)), PROFILE=$(PROFILE))
paper: $(ENV) $(CLUSTER)  ## run every notebook and build the book; only what changed (PROFILE=full: published scale)
	@$(if $(filter full,$(PROFILE)),$(PY) workflow/cost.py full)
	@$(SNAKEMAKE) --config profile=$(PROFILE)
	@$(PY) workflow/summary.py $(if $(filter-out paper,$(PROFILE)),_build/$(PROFILE)/)book/results
	@echo "The book: $(SITE)/index.html"

cost: $(ENV)  ## what a profile costs before it is started: make cost PROFILE=full
	@$(PY) workflow/cost.py $(PROFILE)

followups: export HUSAI_COMMAND = make followups$(if $(filter-out paper,$(PROFILE)), PROFILE=$(PROFILE))
followups: $(ENV) $(CLUSTER)  ## run the notebooks of the seven follow-up experiments alone
	@$(SNAKEMAKE) --config profile=$(PROFILE) -- followups

book: $(ENV)  ## build the book again from the notebooks as executed last
	@$(SNAKEMAKE) --config profile=$(PROFILE) --allowed-rules book --force book
	@echo "The book: $(SITE)/index.html"

pdf: $(ENV)  ## print the book, as executed last, into one PDF and offer it on every page (needs Chromium)
	@$(PY) workflow/pdf.py $(BOOK) $(PDF)
	@HUSAI_PDF=$(CURDIR)/$(PDF)/husai.pdf $(MAKE) --no-print-directory book PROFILE=$(PROFILE) PY=$(PY)
	@echo "The book as one PDF: $(SITE)/husai.pdf"

reference: $(ENV)  ## keep the last paper run's results as the reference (from a clean tree only)
	@test -z "$$(git status --porcelain)" || { echo "the tree is not clean: commit first, then make paper"; exit 1; }
	mkdir -p book/reference && cp book/results/*.json book/figures/22_trajectories.svg book/reference/
	$(PY) workflow/trainings.py book/results

audit: $(ENV)  ## judge every claim again from stored artifacts and compare with the reference (NB="22 54": only these)
	@$(PY) workflow/audit.py $(NB)

gate: $(ENV)  ## end with the release gate's last decision: 0 if the candidate that ranks first passes every gate
	@$(PY) -c "import sys; from pathlib import Path; from husai import evidence as e; \
	    v = e.load('75', Path('$(if $(filter-out paper,$(PROFILE)),_build/$(PROFILE)/)book/results'))['values']; \
	    print(v['first'] + ': gates that bind: ' + v['first_binding']); sys.exit(v['exit_status'])"

smoke: export HUSAI_COMMAND = make smoke
smoke: $(ENV)  ## run every notebook at its smallest scale and build that book
	rm -rf $(SMOKE) && mkdir -p $(SMOKE)/executed $(SMOKE)/results $(SMOKE)/figures
	cp notebooks/*.ipynb $(SMOKE)/executed
	HUSAI_OUT=$(CURDIR)/$(SMOKE) $(PY) -m pytest -p nbmake_copies -n 2 -x --nbmake --overwrite --nbmake-timeout=600 \
	    -o filterwarnings=default -p no:cacheprovider --durations=0 $(SMOKE)/executed
	$(MAKE) --no-print-directory book PROFILE=smoke PY=$(PY)

test: $(ENV)  ## unit tests, every notebook at its smallest scale, that book, and a browser on it
	$(PY) -m pytest -n 3 --dist worksteal tests/faults
	$(PY) -m pytest -n 3 --dist loadfile --durations=30 --ignore=tests/faults --ignore=tests/test_browser.py
	$(MAKE) --no-print-directory smoke PY=$(PY)
	HUSAI_SITE=$(CURDIR)/_build/smoke/_build/html $(PY) -m pytest tests/test_browser.py

faults: export HUSAI_FAULTS = $(or $(FAULTS),all)
faults: $(ENV)  ## break small runs, then three of all notebooks, in many ways (FAULTS=trials: the small ones only)
	$(PY) -m pytest -n 3 --dist worksteal tests/faults

.venv-interop/ready: requirements-interop.lock constraints.txt
	@$(PYTHON) $(IS_3_11) || { echo "Python 3.11 is wanted, as python3.11 or python3 on the PATH"; exit 1; }
	$(PYTHON) -m venv --clear .venv-interop
	.venv-interop/bin/python -m pip install -q -c constraints.txt torch
	.venv-interop/bin/python -m pip install -q -c constraints.txt --no-deps -r requirements-interop.lock
	touch $@

interop: export HF_HUB_OFFLINE = 1
interop: export WANDB_MODE = disabled
interop: .venv-interop/ready  ## SAE files beside the real sae_lens, sparsify and dictionary_learning (own environment)
	.venv-interop/bin/python -m pytest -c tests/interop/pytest.ini tests/interop
	.venv-interop/bin/python -m benchmarks.speed smoke

env-evals: .venv-evals/ready  ## make the environment of SAEBench (.venv-evals), for notebook 71; without it that says `not run`
	@echo "environment: .venv-evals"

.venv-evals/ready: requirements-evals.lock constraints.txt
	@$(PYTHON) $(IS_3_11) || { echo "Python 3.11 is wanted, as python3.11 or python3 on the PATH"; exit 1; }
	$(PYTHON) -m venv --clear .venv-evals
	.venv-evals/bin/python -m pip install -q -c constraints.txt torch==2.13.0
	.venv-evals/bin/python -m pip install -q -c constraints.txt torch==2.13.0 --no-deps -r requirements-evals.lock
	touch $@

env-cluster: .venv-cluster/ready  ## put Snakemake's plugins for clusters beside the environment (.venv-cluster)
	@echo "plugins: .venv-cluster; make paper EXECUTOR=slurm or EXECUTOR=kubernetes uses them"

.venv-cluster/ready: requirements-cluster.lock constraints.txt $(ENV)
	rm -rf .venv-cluster
	$(PY) -m pip install -q -c constraints.txt --no-deps --target .venv-cluster -r requirements-cluster.lock
	touch $@

cluster-test: $(ENV) .venv-cluster/ready  ## the workflow on a SLURM of one node, started for it (wants slurmctld, slurmd, munged)
	PYTHONPATH=$(CURDIR):$(CURDIR)/workflow:$(CURDIR)/.venv-cluster $(PY) -m pytest -c tests/cluster/pytest.ini tests/cluster

evals: $(ENV) .venv-evals/ready  ## SAEBench and sae-probes on SAEs whose answers are known
	$(PY) -m pytest -c tests/evals/pytest.ini tests/evals

bench: export HUSAI_COMMAND = make bench
bench: export HF_HUB_OFFLINE = 1
bench: export WANDB_MODE = disabled
bench: $(ENV) .venv-interop/ready  ## measure the speed beside other libraries (leave the machine alone meanwhile) and rewrite its page
	.venv-interop/bin/python -m benchmarks.speed full
	$(PY) -m benchmarks.figure book/reference/speed.json

check: $(ENV)  ## lint, types, and the layer, notebook and book tests
	$(PY) -m ruff check .
	$(PY) -m mypy husai
	$(PY) -m pytest tests/test_layers.py tests/test_notebooks.py tests/test_book.py

nb: export HUSAI_COMMAND = make nb NB=$(NB) $(subst ',,$(GIVEN))
nb: $(ENV)  ## one notebook with parameters into _build/lab: make nb NB=22 K=8 STEPS=100
	@$(PY) workflow/runner.py '$(NB)' $(GIVEN)

report: $(ENV)  ## do your SAEs have the same features? SAES="dir1 dir2 dir3" [ACTS=acts.safetensors] [OUT=folder] [RECOMMEND=yes]
	@$(PY) workflow/report.py

serve: $(ENV)  ## show the built book at http://127.0.0.1:8000
	$(PY) -m http.server --bind 127.0.0.1 --directory $(SITE) 8000

lab: $(ENV)  ## JupyterLab on the notebooks (installed at first use)
	$(PY) -c 'import jupyterlab' 2>/dev/null || $(PY) -m pip install -q -c constraints.txt -c requirements.lock jupyterlab==4.6.6
	$(PY) -m jupyterlab notebooks

clean:  ## remove what builds wrote; keeps .venv and artifacts (trained models)
	rm -rf _build .snakemake .pytest_cache .mypy_cache .ruff_cache book/executed book/results book/figures book/saes book/published
