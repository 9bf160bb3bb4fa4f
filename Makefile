# Conditional VAEs on raw MNIST. `make` prints what there is; the first call of any other
# target sets everything up. PY=python uses an environment you already have.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# What the user passes reaches the shell as environment variables, never as text of a
# command: no blank, quote, ; or $( ) in it is ever interpreted, by make or by the shell.
ARGUMENTS := CONFIG SET RUN DIGIT N SEED TEMPERATURE OUT K LABEL_K HOST PORT OFFLINE \
	PYTEST PY JOBS THREADS ENGINE GPUS DRY EXPERIMENT SWEEP FILTER BY AGAINST METRIC \
	FORMATS ELLIPSES ONLY RUNS WEIGHTS FULL FROM WHAT ATTACH
# What each target takes besides PY; anything else on the command line is refused.
takes.data :=
takes.experiment := CONFIG SET OFFLINE
takes.sweep := CONFIG SET OFFLINE DRY JOBS THREADS ENGINE GPUS
takes.judge := SET
takes.samples := RUN DIGIT N SEED TEMPERATURE OUT
takes.evaluate := RUN K LABEL_K WHAT ATTACH
takes.compare := EXPERIMENT SWEEP RUN FILTER BY AGAINST METRIC FORMATS OUT FROM ATTACH
takes.report := $(takes.compare)
takes.manifold := RUN DIGIT FORMATS ELLIPSES OUT ATTACH
takes.explorer := RUN AGAINST OUT ATTACH
takes.figures := ONLY FROM JOBS SET OFFLINE
takes.reproduce := ONLY JOBS SET OFFLINE
takes.publish := RUNS WEIGHTS
takes.verify := FULL
takes.sync := RUN
takes.ui := HOST PORT
takes.serve := RUN PORT
takes.soak := N
takes.test := PYTEST
takes.test-services := PYTEST

GIVEN := $(strip $(foreach name,$(.VARIABLES),\
	$(if $(filter command,$(firstword $(origin $(name)))),$(name))))
TAKEN := PY $(sort $(foreach goal,$(MAKECMDGOALS),$(takes.$(goal))))
define nearest
$(shell python3 -c 'import difflib, sys; names = sys.argv[2:]; \
	print(*difflib.get_close_matches(sys.argv[1].upper(), names, 1, 0.5))' \
	'$(subst ','\'',$(1))' $(2) 2>/dev/null)
endef
define refuse
$(error $(1)=: no such variable for make $(or $(MAKECMDGOALS),help)$(if \
	$(filter $(1),$(ARGUMENTS)),,$(subst @, ,$(addprefix ;@did@you@mean@,$(addsuffix \
	=?,$(call nearest,$(1),$(TAKEN))))))$(if $(filter SET,$(TAKEN)),; a field of the \
	spec goes into SET: SET="training.seed=1"); it takes $(strip $(TAKEN)))
endef
$(foreach name,$(filter-out $(TAKEN),$(GIVEN)),$(call refuse,$(name)))

# Only make's command line counts: shells export HOST, N or SEED for reasons of their own.
define literal
override $(1) := $$(if $$(filter $(1),$$(GIVEN)),$$(value $(1)))
export $(1)
endef
$(foreach name,$(ARGUMENTS),$(eval $(call literal,$(name))))

# A switch is on or off; the commands below ask whether it is empty.
ON := 1 yes true on YES Yes TRUE True ON On
OFF := 0 no false off NO No FALSE False OFF Off
define switch
ifneq (,$$(filter-out $$(ON) $$(OFF),$$($(1))))
$$(error $(1)=$$($(1)): say 1 or 0 (yes or no, true or false, on or off))
endif
override $(1) := $$(filter $$(ON),$$($(1)))
endef
$(foreach name,OFFLINE DRY ELLIPSES WEIGHTS FULL ATTACH,$(eval $(call switch,$(name))))

ifdef PY
PYTHON := "$${PY}"
READY := python
else
PYTHON := .venv/bin/python
READY := .venv/.ready
endif
export PYTHONPATH := $(CURDIR)

.PHONY: python help setup data judge experiment sweep samples evaluate compress compare manifold explorer \
	figures reproduce publish verify report list sync ui serve walkthrough bench soak test \
	test-services lint clean

help:  ## this list
	@echo "Conditional VAEs on raw MNIST"
	@echo
	@awk -F '  ## ' '/^[a-z-]+:.*  ## / { sub(/:.*/, "", $$1); \
		printf "  %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Begin with: make experiment CONFIG=experiments/quickstart.yaml"

setup: $(READY) data  ## venv, packages, data                 make setup

.venv/.ready: requirements.txt
	@command -v python3 >/dev/null || { echo "there is no python3: install Python \
	3.11 or newer, with venv" >&2; exit 1; }
	@python3 -c 'import sys; sys.version_info >= (3, 11) or sys.exit("python3 is Python \
	%d.%d: 3.11 or newer is needed; install it, or name the python of an environment \
	that has the packages: make … PY=path/to/python" % sys.version_info[:2])'
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "python3 has no venv: \
	install it, on Debian and Ubuntu with apt install python3-venv" >&2; exit 1; }
	python3 -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("PY is Python \
	%d.%d: 3.11 or newer is needed" % sys.version_info[:2])' >/dev/null

data: $(READY)  ## unpack and verify MNIST               make data
	@$(PYTHON) -m cvae data

judge: $(READY)  ## train the CNN that reads samples    make judge SET="data.root=mnist_data/raw"
	@$(PYTHON) -m cvae judge --set="$$SET"

experiment: $(READY)  ## train one spec                        make experiment CONFIG=experiments/quickstart.yaml SET="model.latent_dim=8"
	@$(PYTHON) -m cvae run "$${CONFIG:?say which, such as CONFIG=experiments/quickstart.yaml}" \
		--set="$$SET" $${OFFLINE:+--offline}

sweep: $(READY)  ## train all variants of a spec          make sweep CONFIG=experiments/sweeps/beta.yaml JOBS=2
	@$(PYTHON) -m cvae sweep "$${CONFIG:?say which, such as CONFIG=experiments/sweeps/beta.yaml}" \
		--set="$$SET" $${OFFLINE:+--offline} $${DRY:+--dry} $${JOBS:+--jobs="$$JOBS"} \
		$${THREADS:+--threads="$$THREADS"} $${ENGINE:+--engine="$$ENGINE"} \
		$${GPUS:+--gpus="$$GPUS"}
	@[ -n "$$DRY" ] || $(PYTHON) -m analysis.compare --last-sweep

samples: $(READY)  ## draw digits from a finished run       make samples RUN=quickstart DIGIT=5 N=16
	@$(PYTHON) -m cvae samples $${RUN:+--run="$$RUN"} $${DIGIT:+--digit="$$DIGIT"} \
		$${N:+--n="$$N"} $${SEED:+--seed="$$SEED"} \
		$${TEMPERATURE:+--temperature="$$TEMPERATURE"} $${OUT:+--out="$$OUT"}

evaluate: $(READY)  ## likelihoods and more, with errors    make evaluate RUN=quickstart WHAT="nll gaps"
	@$(PYTHON) -m cvae evaluate $${RUN:+--run="$$RUN"} \
		$${K:+--importance-samples="$$K"} $${LABEL_K:+--label-samples="$$LABEL_K"} \
		$${WHAT:+--what="$$WHAT"}
	@[ -z "$$WHAT" ] || $(PYTHON) -m analysis.evaluation $${RUN:+--run="$$RUN"} \
		$${ATTACH:+--attach}

compress:
	@echo "make compress was removed in version 2.0.0; version 1.0.0 reads old .bits \
	files. See analysis/examples/bits_back.py" >&2; exit 2

SELECTED = $${EXPERIMENT:+--experiment="$$EXPERIMENT"} $${SWEEP:+--sweep="$$SWEEP"} \
	$${RUN:+--run="$$RUN"} $${FILTER:+--filter="$$FILTER"} $${BY:+--by="$$BY"} \
	$${AGAINST:+--against="$$AGAINST"} $${METRIC:+--metric="$$METRIC"} \
	$${FORMATS:+--formats="$$FORMATS"} $${OUT:+--out="$$OUT"} \
	$${FROM:+--from="$$FROM"} $${ATTACH:+--attach}

compare: $(READY)  ## tables, curves, what the seeds say    make compare SWEEP=latent_beta BY=model.latent_dim
	@$(PYTHON) -m analysis.compare $(SELECTED)

report: $(READY)  ## one HTML page of an experiment        make report EXPERIMENT=cvae
	@$(PYTHON) -m analysis.report $(SELECTED)

manifold: $(READY)  ## draw a finished run's latent space    make manifold RUN=quickstart DIGIT=3 FORMATS=svg
	@$(PYTHON) -m analysis.manifold $${RUN:+--run="$$RUN"} $${DIGIT:+--digit="$$DIGIT"} \
		$${FORMATS:+--formats="$$FORMATS"} $${ELLIPSES:+--ellipses} \
		$${OUT:+--out="$$OUT"} $${ATTACH:+--attach}

explorer: $(READY)  ## a page to play with a run's z         make explorer RUN=quickstart AGAINST=plain-vae ATTACH=1
	@$(PYTHON) -m analysis.explorer $${RUN:+--run="$$RUN"} \
		$${AGAINST:+--against="$$AGAINST"} $${OUT:+--out="$$OUT"} $${ATTACH:+--attach}

figures: $(READY)  ## every figure and number of README     make figures ONLY="digits results" FROM=runs JOBS=2
	@$(PYTHON) -m analysis.figures $${ONLY:+--only="$$ONLY"} \
		$${FROM:+--runs="$$FROM"} $${JOBS:+--jobs="$$JOBS"} \
		$${SET:+--set="$$SET"} $${OFFLINE:+--offline}

reproduce: $(READY)  ## train again, compare with results/   make reproduce ONLY="seed_notebook beta" JOBS=2
	@$(PYTHON) -m analysis.reproduce --only \
		"$${ONLY:?say what, such as ONLY='seed_notebook beta'}" $${JOBS:+--jobs="$$JOBS"} \
		$${SET:+--set="$$SET"} $${OFFLINE:+--offline}

publish: $(READY)  ## finished runs and sweeps to results/ make publish RUNS="seed-notebook beta" WEIGHTS=1
	@$(PYTHON) -m cvae publish "$${RUNS:?say which, such as RUNS='seed-notebook beta'}" \
		$${WEIGHTS:+--weights}

verify: $(READY)  ## check what is published in results/   make verify
	@$(PYTHON) -m cvae verify $${FULL:+--full}

list: $(READY)  ## the runs of this folder               make list
	@$(PYTHON) -m cvae list

sync: $(READY)  ## publish what MLflow does not have     make sync RUN=quickstart
	@$(PYTHON) -m cvae sync $${RUN:+--run="$$RUN"}

ui: $(READY)  ## MLflow on 127.0.0.1                   make ui PORT=5000
	@$(PYTHON) -m cvae ui $${HOST:+--host="$$HOST"} $${PORT:+--port="$$PORT"}

serve: $(READY)  ## digits over HTTP, by MLflow           make serve RUN=seed-notebook PORT=5001
	@$(PYTHON) -m cvae serve $${RUN:+--run="$$RUN"} $${PORT:+--port="$$PORT"}

walkthrough: $(READY)  ## run the notebook of the walk-through  make walkthrough
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check \
		-r requirements-notebook.txt
	@$(PYTHON) -m analysis.examples.notebook

bench: $(READY)  ## training speed against the usual way  make bench
	@$(PYTHON) -m benchmarks.speed
	@$(PYTHON) -m benchmarks.speed --threads 1 --out runs/bench/one.json
	@$(PYTHON) -m benchmarks.likelihood
	@$(PYTHON) -m benchmarks.start
	@$(PYTHON) -m benchmarks.summary

soak: $(READY)  ## kill runs N times, compare what's left make soak N=500
	@OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.soak --together 16 $${N:+--kills="$$N"}

test: $(READY)  ## all tests that need only Python       make test
	@$(PYTHON) -m pytest -n 3 $$PYTEST

test-services: $(READY)  ## needs Chromium, PostgreSQL and Ray    make test-services
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check playwright \
		"psycopg[binary]" -r requirements-ray.txt
	@$(PYTHON) -m pytest -m services $$PYTEST

lint: $(READY)  ## ruff and mypy                         make lint
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

clean:  ## remove caches; runs and venv stay     make clean
	@rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis samples
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
