# Everything installs itself into .venv; nothing outside the checkout is touched. Git of this checkout alone learns to store
# notebooks without their outputs, and to merge them cell by cell.
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.installed
TORCH  := $(shell grep '^torch==' requirements.lock)
UV     := uv==0.13.9
BY_UV   = $(VENV)/bin/uv pip install --quiet --python $(PY) --cache-dir $(VENV)/.cache
BY_PIP  = $(PY) -m pip install --quiet
COMPILE = cd $(VENV)/lib/python3*/site-packages && ../../../bin/python -m compileall -q -x '/(tests?|lexers)/' pandas \
          numpy matplotlib scipy IPython snakemake sphinx docutils sklearn statsmodels > /dev/null; cd - > /dev/null
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
STUDY  ?= quick
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install study test test-slurm docs lab tidy clean

help:  ## show these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Right after a clone, git compares files as new as its index by content. `git status` does so once, before the filter is
# set; otherwise the first run of a study would wait for one filter process per notebook.
#
# torch by pip and with its exact version: a range would fetch gigabytes of another build. At the same time uv, four
# times as fast as pip, installs all other packages of the lock; what torch needs besides (CUDA, where it has it) is last
$(READY): requirements.lock settings.ini setup.py
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: python3 is' $$(python3 --version); exit 1; }
	@echo 'set-up in $(VENV): environment'
	@python3 -m venv $(VENV)
	@$(BY_PIP) "$(UV)" || echo 'uv cannot be installed; pip does its work'
	@grep -v -e '^#' -e '^torch==' requirements.lock > $(VENV)/others.txt
	@echo "set-up: $(TORCH) and $$(wc -l < $(VENV)/others.txt) other packages"
	@$(BY_PIP) --no-deps --no-compile "$(TORCH)" & torch=$$!; \
		$(BY_UV) --no-deps --requirement $(VENV)/others.txt || $(BY_PIP) --no-deps --requirement $(VENV)/others.txt \
		|| { kill $$torch; exit 1; }; echo 'set-up: other packages are there; torch'; $(COMPILE); wait $$torch
	@echo 'set-up: lth_nb'
	@$(BY_UV) "$(TORCH)" || $(BY_PIP) "$(TORCH)"
	@$(BY_UV) --no-deps --no-build-isolation --editable . || $(BY_PIP) --no-deps --editable .
	@rm -rf $(VENV)/.cache
	@! git rev-parse --git-dir > /dev/null 2>&1 || { \
		git -c filter.notebook.clean= status > /dev/null; \
		git config filter.notebook.clean '$(PY) .githooks/clean_notebook.py'; \
		git config merge.notebook.name 'notebooks cell by cell'; \
		git config merge.notebook.driver '$(VENV)/bin/nbdev_merge %O %A %B %P'; }
	@touch $@

install: $(READY)  ## only set everything up

study: $(READY)  ## run the quick study (STUDY=name for another) and print what it found
	@$(VENV)/bin/lth run $(STUDY) --jobs $(JOBS)

test: $(READY)  ## run the tests; SLOW=1 adds those that take long, as the site's
	$(PY) -m pytest -n 2 --dist worksteal -m "$(if $(SLOW),,not slow and )not slurm" tests

test-slurm: $(READY)  ## run the quick study through a Slurm of one node, with jobs killed (as root: installs slurm-wlm)
	$(PY) -m pytest -rs -m slurm tests

docs: $(READY)  ## build the site into _site/ with all its examples run
	$(PY) nbs/site/build.py $(if $(filter command environment,$(firstword $(origin STUDY))),--study $(STUDY))

lab: $(READY)  ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab --allow-root --notebook-dir=. nbs/index.ipynb

tidy: $(READY)  ## strip outputs from the notebooks and export the library
	$(VENV)/bin/jupyter nbconvert --log-level ERROR --clear-output --inplace nbs/*.ipynb nbs/*/*.ipynb
	$(VENV)/bin/nbdev_clean && $(VENV)/bin/nbdev_export

clean:  ## delete the environment, the site, caches and runs (committed results stay)
	rm -rf $(VENV) _site _proc _docs build dist *.egg-info .snakemake data/cache data/runs data/tickets
