PYTHON ?= python3
BIN := .venv/bin
BASE := .venv-base/bin
INPUTS := pyproject.toml constraints.txt src/expunge/_version.py

.PHONY: demo test test-long docs benchmarks gpu-check figures comparison leaderboard paper paper-quick lint clean

demo: .venv/installed  ## install, then the main job on real data
	$(BIN)/expunge demo --out demo-$$(date +%Y%m%d-%H%M%S)

test: .venv/installed .venv-base/installed lint  ## all that CI runs
	$(BASE)/pytest -q -p no:cacheprovider tests/base
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile --ignore=tests/base --doctest-modules src tests -m "not long"

test-long: .venv/installed  ## minutes rather than seconds, MNIST among them
	$(BIN)/pytest -q tests -m long

docs: .venv-docs/installed  ## the documentation as a site: open site/index.html
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build -q

benchmarks: .venv/installed  ## docs/performance.md: speed and memory beside peers and limits; under 15 minutes
	cd benchmarks && ../$(BIN)/python -m performance

gpu-check: .venv/installed  ## on a CUDA device: its noise is that of the CPU; steps, noise and stacks beside their peers
	cd benchmarks && ../$(BIN)/python -m performance gpu

figures: .venv/installed  ## the plots of docs/accounting.md, from the code that certificates rest on
	$(BIN)/python benchmarks/figures.py

comparison: .venv/installed  ## docs/comparison.md: the leaderboard's request of canaries alone, what is not there yet; an hour
	$(BIN)/python benchmarks/leaderboard.py --request canaries

leaderboard: .venv/installed  ## docs/leaderboard.md: every unlearner, heuristics too, on six kinds of request, many models of some, what is not there yet; hours
	$(BIN)/python benchmarks/leaderboard.py

# On a CPU with a C++ compiler: make paper CIFAR10="--compile --bfloat16"
paper: .venv/installed  ## the paper's figures, everything that is not there yet: a GPU, or a day or more
	for study in mnist features10 features100; do $(BIN)/python benchmarks/paper/run.py $$study || exit 1; done
	$(BIN)/python benchmarks/paper/run.py cifar10 $(CIFAR10)
	$(BIN)/python benchmarks/paper/claims.py
	$(BIN)/python benchmarks/paper/page.py

paper-quick: .venv/installed  ## the same with fewer runs, CIFAR-10 pictures shortened: under 10 minutes on two cores
	for study in mnist features10 features100 cifar10; do $(BIN)/python benchmarks/paper/run.py $$study --quick || exit 1; done
	$(BIN)/python benchmarks/paper/page.py --results benchmarks/paper/.cache/quick --out benchmarks/paper/.cache/quick
	@echo look at benchmarks/paper/.cache/quick/README.md

lint: .venv/installed
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/pyright
	$(BIN)/lint-imports

.venv/installed: $(INPUTS)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# No torch here: what a stranger needs to verify.
.venv-base/installed: $(INPUTS)
	$(PYTHON) -m venv .venv-base
	$(BASE)/pip install -q --disable-pip-version-check -c constraints.txt -e . pytest
	touch $@

# Nor here: the reference is read from the source, not imported.
.venv-docs/installed: $(INPUTS)
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv .venv-base .venv-docs site
