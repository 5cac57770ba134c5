# make run: install, then the quickstart. make test: install, then all tests. Everything goes into .venv.
PYTHON ?= python3
BIN = .venv/bin

run: .venv/installed
	$(BIN)/fedn-partial run configs/quickstart.yaml

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: .venv/installed
	PYTHONPATH=tests/harness $(BIN)/python tests/benchmarks/rounds.py
	PYTHONPATH=tests/harness $(BIN)/python tests/benchmarks/limits.py
	$(BIN)/python tests/benchmarks/merge.py
	$(BIN)/python tests/benchmarks/accuracy.py
	$(BIN)/python tests/benchmarks/memory.py

# The table of docs/RELIABILITY.md: about 20 minutes, as root
faults: .venv/installed
	$(BIN)/python tests/reliability/faults.py --document docs/RELIABILITY.md

# docs/RESULTS.md and its pictures, from docs/results and from the experiments in runs/
results: .venv/installed
	$(BIN)/fedn-partial results

# The README's pictures: make pictures QUICKSTART="runs/NAME runs/OTHER" PROFILE=runs/NAME (needs Chromium)
pictures: .venv/installed
	PYTHONPATH=tests/harness $(BIN)/python docs/pictures/make.py report-quickstart $(QUICKSTART)
	PYTHONPATH=tests/harness $(BIN)/python docs/pictures/make.py report-profile $(PROFILE)
	$(BIN)/python docs/pictures/pipeline.py

# Resolve the tested versions anew, show what changes, and run the gate with them: docs/VERSIONS.md
constraints: .venv/installed
	$(BIN)/python .ci/resolve.py > constraints.new
	mv constraints.new constraints.txt
	git --no-pager diff --unified=0 constraints.txt
	$(MAKE) test

# By the environment the constraints also hold for what builds the package.
.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --editable '.[local,dev]'
	touch $@

.PHONY: run test bench faults results pictures constraints
