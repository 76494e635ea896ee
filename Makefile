# Everything installs itself into .venv; nothing outside the checkout is touched.
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.installed
TORCH  := $(shell grep '^torch==' requirements.lock)
UV     := uv==0.13.9
QUICKLY = --quiet --compile-bytecode --python $(PY) --cache-dir $(VENV)/.cache
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)
STUDY  ?= quick
export OMP_NUM_THREADS := 1
export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install study test test-slurm docs lab tidy clean

help:  ## show these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch first and with its exact version, by pip and by itself: a range would fetch gigabytes of another build; uv is
# four times as fast as pip for the rest
$(READY): requirements.lock settings.ini setup.py
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed: python3 is' $$(python3 --version); exit 1; }
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet "$(TORCH)"
	$(PY) -m pip install --quiet "$(UV)" && $(VENV)/bin/uv pip install $(QUICKLY) --requirement requirements.lock \
		|| $(PY) -m pip install --quiet --requirement requirements.lock
	@rm -rf $(VENV)/.cache
	$(PY) -m pip install --quiet --no-deps --editable .
	$(PY) -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (lth_nb)" >/dev/null
	@touch $@

install: $(READY)  ## only set everything up

study: $(READY)  ## run the quick study (STUDY=name for another) and print what it found
	@$(VENV)/bin/lth run $(STUDY) --jobs $(JOBS)

test: $(READY)  ## run the tests; SLOW=1 adds those that take long, as the site's
	$(PY) -m pytest -n 2 --dist worksteal -m "$(if $(SLOW),,not slow and )not slurm" tests

test-slurm: $(READY)  ## run the quick study through a Slurm of one node, with jobs killed (as root: installs slurm-wlm)
	$(PY) -m pytest -rs -m slurm tests

docs: $(READY)  ## build the site into _site/
	$(PY) nbs/site/build.py --study $(STUDY)

lab: $(READY)  ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab --allow-root --notebook-dir=. nbs/index.ipynb

tidy: $(READY)  ## strip outputs from the notebooks and export the library
	$(VENV)/bin/jupyter nbconvert --log-level ERROR --clear-output --inplace nbs/*.ipynb nbs/*/*.ipynb
	$(VENV)/bin/nbdev_clean && $(VENV)/bin/nbdev_export

clean:  ## delete the environment, the site, caches and runs (committed results stay)
	rm -rf $(VENV) _site _proc _docs build dist *.egg-info .snakemake data/cache data/runs data/tickets
