# Everything a person or a machine does with this repository. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run venv test test-deps test-fleet check lint bench lock schema screenshots bundle train clean

PYTHON ?= $(shell scripts/find_python.sh)
SOURCE ?=
EXTRAS ?=
# The repository's config.yaml is calibrated for the pedestrian video; another source gets a config without calibration.
CONFIG ?= $(if $(SOURCE),docs/examples/own-camera.yaml,config.yaml)
BIN := .venv/bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/.run ## run the agent on the pedestrian video (SOURCE= any file, RTSP URL, camera index, image folder; CONFIG=)
	@$(if $(SOURCE),,scripts/fetch_pedestrian_video.sh)
	@exec $(BIN)/edge-agent run -c $(CONFIG) --realtime $(if $(SOURCE),--source '$(SOURCE)')

venv: .venv/.run ## create .venv from the lock (PYTHON= which interpreter, EXTRAS="coral influxdb openvino systemd tensorrt")
	@for extra in $(EXTRAS); do scripts/make_venv.sh "$(PYTHON)" "extra-$$extra"; done

.venv/.run: requirements/run.txt setup.cfg pyproject.toml
	@scripts/make_venv.sh "$(PYTHON)" run

.venv/.dev: requirements/dev.txt setup.cfg pyproject.toml
	@scripts/make_venv.sh "$(PYTHON)" dev

test-deps: ## install the system packages the tests need, where missing (apt, sudo when not root)
	@scripts/test_deps.sh

.venv/.extra-rtx: requirements/extra-rtx.txt
	@scripts/make_venv.sh "$(PYTHON)" extra-rtx

# The order matters on a bare box: test-deps brings python3-venv. Four at once on two cores: half of the time tests wait for others.
test: test-deps ## everything: lint, types, import contracts, all tests but those of test-fleet
	@$(MAKE) --no-print-directory lint
	@[ "$$(uname -m)" != x86_64 ] || $(MAKE) --no-print-directory .venv/.extra-rtx
	@$(BIN)/python -m pytest -q -n 4 --dist worksteal -m "not fleet"

.venv-ansible/.done: deploy/ansible/requirements.txt
	@$(PYTHON) -m venv .venv-ansible
	@.venv-ansible/bin/pip install -q -r deploy/ansible/requirements.txt
	@touch $@

test-fleet: test-deps .venv/.dev .venv-ansible/.done ## ansible-lint, and the story of a fleet on machines in systemd-nspawn (root; up to an hour on two cores)
	@scripts/test_deps.sh fleet
	@cd deploy/ansible && PATH="$(CURDIR)/.venv-ansible/bin:$$PATH" ansible-lint --nocolor
	@$(BIN)/python -m pytest -q -x -m fleet -p no:xdist

check: lint ## lint, types, import contracts and the fast tests, in under a minute
	@$(BIN)/python -m pytest -q -m "not slow and not fleet" -n 2

lint: .venv/.dev ## ruff, mypy --strict, import contracts
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache >.venv/lint-imports.log || { cat .venv/lint-imports.log; exit 1; }
	@echo "ruff, mypy --strict and the import contracts: clean"

# Ground truth is not in the repository: GT= files in MOTChallenge format, POINTS= their camera's pixel and metre pairs.
bench: test-deps .venv/.dev ## measure agent, tracker, outbox (GT= and POINTS= distances too) on this box: benchmarks/README.md
	@scripts/fetch_pedestrian_video.sh
	@missed=0; \
	for what in "pipeline" "tracker --seeds 1 $(if $(GT),--gt $(GT))" "outbox" \
		$(if $(and $(GT),$(POINTS)),"social_distancing $(foreach file,$(GT),$(firstword $(subst @, ,$(file)))) --points $(POINTS)"); do \
		echo; echo "== $$what"; $(BIN)/python -m benchmarks.$$what || missed=1; \
	done; exit $$missed

lock: .venv/.dev ## resolve requirements/*.txt anew (hashes for every Python and platform)
	@scripts/lock.sh $(BIN)/uv

schema: .venv/.run ## write docs/config.schema.json and docs/asyncapi.yaml anew, from the types
	@$(BIN)/edge-agent schema config >docs/config.schema.json
	@$(BIN)/edge-agent schema asyncapi >docs/asyncapi.yaml

screenshots: .venv/.run ## draw docs/img/*.svg anew, from real runs
	@scripts/fetch_pedestrian_video.sh
	@$(BIN)/python scripts/make_screenshots.py

bundle: .venv/.dev ## one archive for boxes without internet (PLATFORM=cp311-aarch64, EXTRAS=, MODELS=, ROOT=root.json): docs/install.md
	@nice $(BIN)/python scripts/make_bundle.py --platform '$(PLATFORM)' --extras $(EXTRAS) --models $(MODELS) $(if $(ROOT),--root '$(ROOT)')

.venv-training/.done: training/requirements.txt
	@$(PYTHON) -m venv .venv-training
	@.venv-training/bin/pip install -q -r training/requirements.txt
	@touch $@

train: .venv-training/.done ## train a detector, or go on training it (SETTINGS=, DATA= folder of pictures, RUN= folder of the run): docs/train.md
	@exec .venv-training/bin/python -m training train '$(or $(SETTINGS),training/configs/person-s.yaml)' \
		--data '$(or $(DATA),$(error DATA= the folder with the labelled pictures))' --out '$(or $(RUN),runs/person-s)'

clean: ## remove what was built and cached, but neither .state nor the video
	@rm -rf .venv .venv-ansible build dist *.egg-info .hypothesis .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
	@find edge_agent tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
