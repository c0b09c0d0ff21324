# Zero- and few-shot visual anomaly detection. `make help` lists the targets.

PYTHON ?= python3.11
VENV   ?= .venv
RUN_PY := $(VENV)/bin/python
READY  := $(VENV)/.ready
# The command on this folder's code, wherever the environment was installed from.
VANDKIT := PYTHONPATH="$(CURDIR):$$PYTHONPATH" $(VENV)/bin/vandkit
TORCHRUN = $(RUN_PY) -m torch.distributed.run --standalone --nproc_per_node=$(PROCESSES)
# A process for each core, eight at most, each with one thread; a file's tests stay together, and so do what they share.
# Files come in the order of their names: the long ones of e2e begin early, and no process waits for another at the end.
PYTEST := $(RUN_PY) -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder

# Variables of every track target; empty means the default of conf/.
DATA ?=
ROOT ?=
MODEL ?=
WEIGHTS ?=
SHOTS ?=
STORE ?=
RUN ?= $(STORE)
A ?=
B ?=
SEED ?=
CATEGORIES ?=
DEVICE ?=
OUT ?=
ARGS ?=
LAUNCHER ?=
TARGET ?=
TABLE ?=
PROCESSES ?=
MODELS ?=
SEEDS ?=

# Paths and free text reach the configuration through the environment, so that blanks, quotes and commas survive; under
# names of their own: a shell may have an OUT or a PROMPT of another kind.
TEXT := ROOT OUT IMAGES REFERENCES CATEGORY CATEGORIES PROMPT RUN A B
$(foreach name,$(TEXT),$(eval export VANDKIT_$(name) = $$($(name))))

comma := ,
SETTINGS = $(if $(DATA),data=$(DATA)) $(if $(ROOT),'data.root=$${oc.env:VANDKIT_ROOT}') $(if $(MODEL),model=$(MODEL)) \
	$(if $(WEIGHTS),weights=$(WEIGHTS)) $(if $(SEED),seed=$(SEED)) $(if $(DEVICE),device=$(DEVICE)) \
	$(if $(CATEGORIES),'categories=$${env_words:VANDKIT_CATEGORIES}') $(if $(OUT),'out=$${oc.env:VANDKIT_OUT}')

.PHONY: help zero-shot few-shot sweep compare train tiny predict demo fit score report compare-runs submission reproduce weights data doctor bench-metrics docs test check install clean

# The variables of the command line that each target takes; those of the environment are nobody's mistake.
TAKEN_BY_ALL := PYTHON VENV ARGS SHELL
TRACK := DATA ROOT MODEL WEIGHTS SEED CATEGORIES DEVICE OUT
TAKEN_zero-shot := $(TRACK) SHOTS
TAKEN_few-shot := $(TRACK) SHOTS
TAKEN_sweep := $(TRACK) SHOTS LAUNCHER
TAKEN_compare := DATA ROOT MODELS WEIGHTS SHOTS SEEDS CATEGORIES DEVICE OUT
TAKEN_train := $(TRACK) TARGET PROCESSES
TAKEN_predict := IMAGES REFERENCES CATEGORY PROMPT MODEL WEIGHTS DEVICE OUT
TAKEN_fit := REFERENCES CATEGORY PROMPT MODEL WEIGHTS DEVICE OUT
TAKEN_demo := MODEL WEIGHTS DEVICE
TAKEN_score := RUN STORE
TAKEN_report := RUN STORE ROOT OUT
TAKEN_compare-runs := A B OUT
TAKEN_submission := RUN STORE OUT
TAKEN_reproduce := TABLE RUN STORE ROOT MODELS WEIGHTS DEVICE OUT
TAKEN_weights := WEIGHTS
TAKEN_data := DATA ROOT
TAKEN_doctor := DATA ROOT WEIGHTS

GOALS := $(or $(MAKECMDGOALS),help)
TAKEN := $(TAKEN_BY_ALL) $(sort $(foreach goal,$(GOALS),$(TAKEN_$(goal))))
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out $(TAKEN) MAKE%,$(GIVEN))
NEAREST = import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1, 0.5))
ifneq (,$(UNKNOWN))
NEAR := $(shell $(PYTHON) -c '$(NEAREST)' '$(firstword $(UNKNOWN))' $(TAKEN))
$(error expected `make $(GOALS)` to be given variables out of $(TAKEN), got $(UNKNOWN)$(if $(NEAR),; did you mean $(NEAR)?))
endif

help: ## List the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'
	@echo "Variables of the track targets: DATA ROOT MODEL WEIGHTS SHOTS SEED CATEGORIES DEVICE OUT; any setting: ARGS=\"key=value ...\""

zero-shot: $(READY) ## Run the zero-shot track: no image of the product is used (DATA=mvtec ROOT=folder for real images).
	@$(VANDKIT) zero-shot $(SETTINGS) $(if $(SHOTS),shots=$(SHOTS)) $(ARGS)

few-shot: $(READY) ## Run the few-shot track with SHOTS normal images of each category, drawn by SEED.
	@$(VANDKIT) few-shot $(SETTINGS) $(if $(SHOTS),shots=$(SHOTS)) $(ARGS)

sweep: $(READY) ## Run every combination in ARGS="shots=1,2,4 seed=0,1,2 ..." and print one table, mean and deviation over seeds.
	@$(VANDKIT) sweep $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER)) $(SETTINGS) $(if $(SHOTS),shots=$(SHOTS)) $(ARGS)

compare: $(READY) ## Print the papers' comparison: all MODELS (or a,b) on the same images, for SHOTS=0,1,2,4 and SEEDS=0,1,2.
	@$(VANDKIT) compare $(if $(DATA),data=$(DATA)) $(if $(ROOT),'data.root=$${oc.env:VANDKIT_ROOT}') \
		$(if $(WEIGHTS),weights=$(WEIGHTS)) $(if $(MODELS),'models=[$(MODELS)]') $(if $(SHOTS),'shots=[$(SHOTS)]') \
		$(if $(SEEDS),'seeds=[$(SEEDS)]') $(if $(DEVICE),device=$(DEVICE)) $(if $(CATEGORIES),'categories=$${env_words:VANDKIT_CATEGORIES}') $(ARGS)

train: $(READY) ## Train adapters on one data set for use on another (DATA=mvtec ROOT=folder TARGET=visa; PROCESSES=4 for 4 GPUs).
	@$(if $(PROCESSES),$(TORCHRUN) -m train.adapter,$(VANDKIT) train) $(SETTINGS) $(if $(TARGET),target=$(TARGET)) $(ARGS)

tiny: $(READY) ## Train the small weights that ship again, from nothing (about two hours on 2 CPU cores).
	@$(RUN_PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[tiny]'
	@$(RUN_PY) -m train.tiny $(ARGS) && $(RUN_PY) -m train.card

predict: $(READY) ## Judge a folder of your own photos: IMAGES=folder [REFERENCES=folder] [CATEGORY="steel bracket"] [PROMPT="scratch, dent"].
	@$(VANDKIT) predict $(if $(MODEL),model=$(MODEL)) $(if $(WEIGHTS),weights=$(WEIGHTS)) $(if $(DEVICE),device=$(DEVICE)) $(ARGS)

fit: $(READY) ## Learn photos of good parts into one file: REFERENCES=folder OUT=bracket.safetensors [CATEGORY="steel bracket"].
	@$(VANDKIT) fit $(if $(MODEL),model=$(MODEL)) $(if $(WEIGHTS),weights=$(WEIGHTS)) $(if $(DEVICE),device=$(DEVICE)) $(ARGS)

demo: $(READY) ## Open a page in the browser: drop photos, see heat maps and verdicts (ARGS="port=8000").
	@$(RUN_PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[demo]'
	@$(VANDKIT) demo $(if $(MODEL),model=$(MODEL)) $(if $(WEIGHTS),weights=$(WEIGHTS)) $(if $(DEVICE),device=$(DEVICE)) $(ARGS)

score: $(READY) ## Score a finished run again from its stored maps (RUN=outputs/few_shot/latest; ARGS="bootstrap=1000" for intervals).
	@$(VANDKIT) score $(ARGS)

report: $(READY) ## Write a web page of one file about a finished run (RUN=outputs/few_shot/latest).
	@$(VANDKIT) report $(ARGS)

compare-runs: $(READY) ## Compare two runs on the same images: which is better where, and is it more than noise (A=run B=run).
	@$(VANDKIT) compare-runs $(ARGS)

submission: $(READY) ## Export a run as a challenge submission, zipped and validated (RUN=outputs/few_shot/latest).
	@$(VANDKIT) submit $(ARGS)

reproduce: $(READY) ## Print a published table, ours and the difference: TABLE=april_gan/9 ROOT=folder, or RUN=finished run.
	@$(VANDKIT) reproduce $(if $(TABLE),table=$(TABLE)) $(if $(MODELS),'models=[$(MODELS)]') $(if $(WEIGHTS),use_weights=$(WEIGHTS)) $(if $(DEVICE),device=$(DEVICE)) $(ARGS)

weights: $(READY) ## Fetch and check weight files: WEIGHTS=official for all that the papers used; without WEIGHTS, list them.
	@$(VANDKIT) weights $(WEIGHTS) $(ARGS)

data: $(READY) ## Download, check, unpack and look over a public data set: DATA=visa ROOT=folder (or say how to get it by hand).
	@$(VANDKIT) data $(if $(DATA),data=$(DATA)) $(if $(ROOT),'data.root=$${oc.env:VANDKIT_ROOT}') $(ARGS)

doctor: $(READY) ## Find what is wrong with data, weights or machine: [DATA=visa ROOT=folder] [WEIGHTS=official].
	@$(VANDKIT) doctor $(if $(DATA),data=$(DATA)) $(if $(ROOT),'data.root=$${oc.env:VANDKIT_ROOT}') $(if $(WEIGHTS),'weight_files=[$(WEIGHTS)]') $(ARGS)

bench-metrics: $(READY) ## Time our scorer beside the others that are installed (they are not by default: see benchmarks/README.md).
	@$(RUN_PY) -m benchmarks.metrics $(ARGS)

docs: $(READY) ## Build the site of docs/ into outputs/site, links checked.
	@$(RUN_PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@$(VENV)/bin/mkdocs build --strict

test: $(READY) ## Install what is missing and run all tests.
	@$(PYTEST) $(ARGS)

check: $(READY) ## Format check, lint, types and the quick tests: the same by hand, in pre-commit and in CI.
	@$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/mypy
	@! $(VENV)/bin/vulture | grep -vE '^(tests|benchmarks)/'
	@$(PYTEST) -m "not slow and not e2e"

install: $(READY) ## Install everything into .venv (done by every target that needs it).

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: expected $(PYTHON), found none; install Python 3.11 or say PYTHON=/path/to/python"; exit 2; }
	@echo "installing into $(VENV) (a few minutes, once)"
	@test -x $(RUN_PY) || $(PYTHON) -m venv $(VENV)
	@$(RUN_PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,sweep]'
	@# Compiled loops that an earlier `pip install .` left there would hide this folder's package.
	@for left in $(VENV)/lib/python*/site-packages/eval; do test -n "$$(find $$left -name '*.py' 2>&1)" || rm -rf $$left; done
	@touch $(READY)

clean: ## Delete all run folders.
	rm -rf outputs
