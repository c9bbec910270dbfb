# `make` alone prints what there is to do. Everything runs in .venv, which any target makes if it is missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
# What is pinned, from the lock into an environment: by hash, and from the index that this machine uses (UV_DEFAULT_INDEX);
# `uv sync` would take every file from PyPI itself.
PINNED  := $(BIN)/uv export --quiet --frozen --no-default-groups --no-emit-workspace --no-header --no-annotate
INSTALL := $(BIN)/uv pip install --quiet --require-hashes --requirements /dev/stdin --python
# A value from the command line as one word of the shell, whatever quotes (and, by $(value), dollars) are in it; an option, if
# it has a value.
shell_word = '$(subst ','\'',$(1))'
option = $(if $(2),$(1) $(call shell_word,$(2)))
argument = $(if $(1),$(call shell_word,$(1)))

# The program for people; each variable below is the option of the same name.
CLI := $(BIN)/dualdeploy
PLACE = $(call option,--project,$(value PROJECT)) $(call option,--region,$(value REGION))
AS_JSON = $(if $(JSON),--json)
# The two services of the project or of the local cloud, or one by its URL.
SERVICES_ASKED = $(call option,--url,$(value URL)) $(call option,--reason,$(value REASON)) $(PLACE) $(AS_JSON)

LITERT := services/console/console/static/litert
# Nothing but the console's simulator needs it, so nothing ends where it cannot be had.
SIMULATOR_IF_POSSIBLE = $(MAKE) --no-print-directory simulator || echo "The console's simulator will say what is missing; all else works."

##@ Try it

.PHONY: demo
demo: $(STAMP) ## The whole loop on the local cloud: data in, two live models out (DATA=folder [YAML=file] for your own TFRecords; CLOUD=keras:<Name>, MOBILE=network.py for other networks, METHOD=automl)
	@$(CLI) demo $(call option,--data,$(value DATA)) $(call option,--yaml,$(value YAML)) $(call option,--labels,$(value LABELS)) \
	  $(call option,--cloud,$(value CLOUD)) $(call option,--mobile,$(value MOBILE)) $(call option,--method,$(value METHOD)) $(AS_JSON)

.PHONY: up
up: $(STAMP) ## The same stack, left running; writes build/local_cloud.env (REALISTIC=1: at Google's rates and pauses; IMAGE=name=folder: a training image of your own)
	@$(SIMULATOR_IF_POSSIBLE)
	@$(CLI) up $(if $(REALISTIC),--realistic) $(call option,--image,$(value IMAGE)) $(AS_JSON)

.PHONY: down
down: $(STAMP) ## Stop what `make up` started
	@$(CLI) down $(AS_JSON)

.PHONY: simulator
simulator: $(LITERT)/index.js ## Fetch what the console's simulator runs the phone's model on: LiteRT.js, by npm (make up does it where npm is)
	@:

$(LITERT)/index.js: infra/litert/package-lock.json infra/litert/vendor.mjs
	@command -v npm > /dev/null || { echo "npm is missing, which comes with Node.js (on Debian: apt-get install npm)"; exit 1; }
	@mkdir -p build/litert && cp infra/litert/package.json infra/litert/package-lock.json build/litert/
	@npm ci --prefix build/litert --ignore-scripts --no-audit --no-fund --loglevel=error > /dev/null
	@node infra/litert/vendor.mjs build/litert/node_modules $(LITERT)

.PHONY: validate
validate: $(STAMP) ## Check a folder of TFRecords before anything is spent: DATA=folder [YAML=file] [LABELS=a,b,c]
	@$(CLI) validate $(call argument,$(value DATA)) $(call option,--config,$(value YAML)) $(call option,--labels,$(value LABELS)) $(AS_JSON)

.PHONY: check-module
check-module: $(STAMP) ## A network of your own the whole way on this machine: FILE=network.py [CLASSES=5] [SIZE=224] [TARGET=cloud]
	@$(CLI) check-module $(call argument,$(value FILE)) $(call option,--classes,$(value CLASSES)) $(call option,--image-size,$(value SIZE)) $(call option,--target,$(value TARGET)) $(AS_JSON)

.PHONY: shards
shards: $(STAMP) ## Turn pictures into checked shards: IMAGES=folder of class folders, .csv or .jsonl ([OUT=folder | TO=gs://…] [DATASET=…] [LABELS=a,b,c] [SHARDS=n])
	@$(CLI) shards $(call argument,$(value IMAGES)) $(call option,--out,$(value OUT)) $(call option,--to,$(value TO)) $(call option,--config-bucket,$(value CONFIG)) \
	  $(call option,--dataset,$(value DATASET)) $(call option,--labels,$(value LABELS)) $(call option,--shards,$(value SHARDS)) $(call option,--max-bad,$(value MAX_BAD)) $(AS_JSON)

.PHONY: runs
runs: $(STAMP) ## Runs, newest first: states, costs, what they wait for ([PROJECT=…] [DATASET=…] [JSON=1])
	@$(CLI) runs $(call option,--project,$(value PROJECT)) $(call option,--dataset,$(value DATASET)) $(AS_JSON)

.PHONY: run
run: $(STAMP) ## One run with its history: ID=… ([PROJECT=…] [JSON=1])
	@$(CLI) run $(call argument,$(value ID)) $(call option,--project,$(value PROJECT)) $(AS_JSON)

.PHONY: redeploy
redeploy: $(STAMP) ## Bring a recorded run out again on both sides, without training: DATASET=flowers [REASON='…'] [URL=… | PROJECT=…]
	@$(CLI) redeploy $(call argument,$(value DATASET)) $(SERVICES_ASKED)

.PHONY: rollback
rollback: $(STAMP) ## Back to what was live before, on both sides: DATASET=flowers [TO_RUN=…] [REASON='…'] [URL=… | PROJECT=…]
	@$(CLI) rollback $(call argument,$(value DATASET)) $(call option,--to-run,$(value TO_RUN)) $(SERVICES_ASKED)

.PHONY: replay
replay: $(STAMP) ## List the dead letters; ID='…' or ALL=1 sends them again ([PROJECT=…])
	@$(CLI) replay $(ID) $(if $(ALL),--all) $(call option,--project,$(value PROJECT)) $(AS_JSON)

.PHONY: doctor
doctor: $(STAMP) ## Which part of the chain is broken, and what mends it; changes nothing ([PROJECT=… [REGION=…]] [ALL=1] [JSON=1])
	@$(CLI) doctor $(PLACE) $(if $(ALL),--all) $(AS_JSON)

.PHONY: firebase-migrate
firebase-migrate: $(STAMP) ## Copy the models that Firebase ML hosts to the bucket that phones read: PROJECT=… [BUCKET=…]
	@$(CLI) firebase-migrate $(call option,--project,$(value PROJECT)) $(call option,--bucket,$(value BUCKET)) $(AS_JSON)

##@ Work on it

# Many of the fast tests wait for servers, so three share two cores.
FAST := pytest tests -m 'not slow and not e2e' --numprocesses 3 --dist loadfile --quiet

# What the fast tests shall run: the library and the services.
comma := ,
space := $(subst ,, )
MEASURED = $(subst $(space),$(comma),$(patsubst %/,%,shared/src/dualdeploy $(dir $(wildcard services/*/*/__init__.py))))

.PHONY: test
ifdef T
test: $(STAMP)
	@$(BIN)/python -m pytest $(T)
else
# Three passes: the fast tests, those that start TensorFlow, Terraform or servers, and the whole loop, which judges latency
# and has the machine for itself. In the first it is counted which lines and branches of the product run; many of its tests
# wait for servers (see FAST).
test: $(STAMP) ## Every test, the one end-to-end run with real training included (T=path for some)
	@mkdir -p build
	@$(BIN)/python -m slipcover --branch --source $(MEASURED) --json --out build/coverage.json \
	  -m $(FAST)
	@$(BIN)/python tests/coverage_limit.py build/coverage.json
	@$(BIN)/python -m pytest tests -m 'slow and not e2e' --numprocesses 2 --dist loadfile
	@$(BIN)/python -m pytest tests -m e2e
endif

# Services are installed nowhere, because each has a main.py and none may find another's; the tests' helpers neither.
empty :=
SERVICES := $(subst $(empty) ,:,$(strip $(wildcard services/*/)))

.PHONY: browser
browser: $(VENV)/.browser simulator ## Install what the tests in a real browser need besides Chromium; without it they are skipped
	@:

.PHONY: histories
histories: $(STAMP) ## Seeded random histories of the whole chain (kills, freezes, two versions, …): [N=5000] [SEED=0]
	@$(BIN)/python tests/histories.py --count $(or $(N),5000) --seed $(or $(SEED),0)

.PHONY: mutants
mutants: $(STAMP) ## Take away each precondition, lease and order: does a test notice? ([ONLY=part of a path])
	@$(BIN)/python tests/mutants.py --only '$(ONLY)'

.PHONY: test-networks
test-networks: $(STAMP) ## Every network of keras.applications the whole way; writes the table in docs/networks.md (half an hour; [ONLY=A,B])
	@PYTHONPATH=$(SERVICES) $(BIN)/python -m model_check.networks --only '$(ONLY)'

.PHONY: test-fast
test-fast: $(STAMP) ## Without those that import TensorFlow or train
	@$(BIN)/python -m $(FAST)

.PHONY: lint
lint: $(STAMP) ## Style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.PHONY: policy
policy: build/policy/.installed ## Look for what is widely held to be unsafe in Terraform and Dockerfiles (checkov)
	@build/policy/bin/checkov --quiet --compact --skip-download --framework terraform dockerfile --directory infra/terraform --directory infra/own_container --directory services

build/policy/.installed: infra/policy/uv.lock | $(STAMP)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/policy
	@$(PINNED) --project infra/policy | $(INSTALL) build/policy/bin/python
	@touch $@

.PHONY: schema
schema: $(VENV)/.schema ## Hold every argument of Terraform against the provider's schema
	@$(BIN)/python infra/schema/schema_check.py

KOTLIN = $(wildcard $(VENV)/lib/python*/site-packages/run_kotlin_kernel/jars)
.PHONY: kotlin
kotlin: $(VENV)/.kotlin ## Compile the router in Kotlin and run it on the table of routing cases (takes Java; 80 MB once)
	@mkdir -p build/kotlin
	@java -cp '$(KOTLIN)/*' org.jetbrains.kotlin.cli.jvm.K2JVMCompiler -Werror -no-stdlib -no-reflect \
	  -cp "$$(ls $(KOTLIN)/kotlin-stdlib-*.jar)" -d build/kotlin/client.jar shared/kotlin
	@java -cp "build/kotlin/client.jar:$$(ls $(KOTLIN)/kotlin-stdlib-*.jar)" dualdeploy.RoutingCasesKt shared/fixtures/routing_cases.tsv

.PHONY: audit
audit: $(VENV)/.audit ## Ask a vulnerability database about every pinned package (DATABASE=osv; STRICT=1: all must be known)
	@$(BIN)/python infra/audit/dependency_audit.py $(if $(STRICT),--strict) $(if $(DATABASE),--database '$(DATABASE)')

.PHONY: format
format: $(STAMP) ## Put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(STAMP) ## Measure; rows go to build/bench/report.json
	$(BIN)/python -m benchmarks

.PHONY: routes-table
routes-table: $(STAMP) ## Write docs/routes.md from the steps of cloud_deployer and mobile_publisher
	@PYTHONPATH=tests:$(SERVICES) $(BIN)/python -m support.routes_table > docs/routes.md

.PHONY: architecture-pictures
architecture-pictures: $(STAMP) ## Draw the pictures of docs/architecture.md from topology.json, the states and the routes
	@PYTHONPATH=tests:$(SERVICES) $(BIN)/python tests/architecture_pictures.py

.PHONY: coverage-table
coverage-table: $(STAMP) ## Write infra/local_cloud/COVERAGE.md from the route tables
	@$(BIN)/python -m local_cloud.coverage

.PHONY: permissions-table
permissions-table: $(STAMP) ## Write the tables of docs/permissions.md from infra/bindings.json
	@PYTHONPATH=tests:$(SERVICES) $(BIN)/python -m support.permissions_page

##@ Ship it

.PHONY: package
package: $(STAMP) ## Stage what is shipped into build/<service>/ (SERVICE=x for one, BASE_IMAGE=…@sha256:… for another base)
	@$(SIMULATOR_IF_POSSIBLE)
	@$(BIN)/python -m shipping.package $(SERVICE)

SHIPPED = $(PLACE) $(if $(filter delete,$(DATA)),--delete-data) $(AS_JSON)

.PHONY: deploy
deploy: $(STAMP) ## Everything into a project: PROJECT=… REGION=…; or one service and nothing else: SERVICE=x
	@$(SIMULATOR_IF_POSSIBLE)
	@$(CLI) deploy $(SHIPPED) $(call option,--service,$(value SERVICE))

.PHONY: plan
plan: $(STAMP) ## What `make deploy` would do and change, without doing it: PROJECT=… REGION=…
	@$(SIMULATOR_IF_POSSIBLE)
	@$(CLI) plan $(SHIPPED)

.PHONY: destroy
destroy: $(STAMP) ## Take everything down, after asking; buckets with data stay unless DATA=delete
	@$(CLI) destroy $(SHIPPED)

##@ Keep house

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything pinned

$(STAMP): $(BIN)/uv uv.lock $(wildcard */pyproject.toml */*/pyproject.toml)
	@echo "Setting up $(VENV) (about a minute the first time) …"
	@$(PINNED) --all-packages --group dev | $(INSTALL) $(BIN)/python --compile-bytecode
	@$(BIN)/uv sync --quiet --frozen --all-packages --inexact
	@touch $@

# uv installs what pip would, several times faster, and compiles to bytecode at once.
$(BIN)/uv: infra/deploy/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# What one target needs besides is a group of its own in pyproject.toml.
$(VENV)/.%: uv.lock | $(STAMP)
	@$(PINNED) --only-group $* | $(INSTALL) $(BIN)/python
	@touch $@

.PHONY: lock
lock: $(BIN)/uv ## Resolve again what the pyproject.toml files name ([UPGRADE=flask] or [UPGRADE=all] to the newest versions)
	@for project in . infra/policy; do \
	  $(BIN)/uv lock --project $$project --default-index https://pypi.org/simple \
	    $(if $(UPGRADE),$(if $(filter all,$(UPGRADE)),--upgrade,--upgrade-package '$(UPGRADE)')); \
	done
	@$(PINNED) --only-group uv > infra/deploy/uv.txt
	@$(PINNED) --package own-container --all-extras > infra/own_container/requirements.txt

.PHONY: clean
clean: ## Stop what runs and remove what was built, but not .venv
	@test ! -e build/local_cloud.env || $(CLI) down
	rm -rf build $(LITERT)

.PHONY: help
help: ## This text
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  \033[36m%-16s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
