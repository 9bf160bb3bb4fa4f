# Conditional VAEs on raw MNIST. `make` prints every target with an example; the first
# call of any other target sets everything up. PY=python uses an environment you have.
#
# Every target calls cvae/cli/front.py, which starts `python -m cvae <target>`: what a
# target does and takes stands in cvae/cli/table.py.

# Only make's command line counts: shells export HOST, N or SEED for reasons of their
# own. A value leaves this file as it was typed, as VALUE_<name>: neither make nor a
# shell ever expands it.
override GIVEN := $(strip $(foreach name,$(.VARIABLES),\
	$(if $(filter command,$(firstword $(origin $(name)))),$(name))))
override GOALS := $(MAKECMDGOALS)
define as_typed
override VALUE_$(1) := $$(value $(1))
export VALUE_$(1)
unexport $(1)
endef
$(foreach name,$(GIVEN),$(eval $(call as_typed,$(name))))
export GIVEN GOALS
override SHELL := /bin/sh

TARGETS := help setup data judge experiment sweep samples evaluate compare manifold \
	explorer figures reproduce publish verify report list sync ui serve walkthrough \
	bench soak test test-services lint clean
define front
@python3 -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null || { echo \
	"there is no python3: install Python 3.11 or newer, with venv" >&2; exit 2; }
@exec python3 cvae/cli/front.py '$(subst ','\'',$@)'
endef

.PHONY: $(TARGETS)
$(TARGETS):
	$(front)

.DEFAULT:
	$(front)
