# make run: install and run the quickstart. make test: install and run all tests. Everything is installed in .venv.
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
	$(BIN)/python tests/benchmarks/robust.py
	$(BIN)/python tests/benchmarks/accuracy.py
	$(BIN)/python tests/benchmarks/memory.py

# Write the table of docs/RELIABILITY.md: about 25 minutes, as root
faults: .venv/installed
	$(BIN)/python tests/reliability/faults.py --document docs/RELIABILITY.md

# Write docs/RESULTS.md and its charts from docs/results and the experiments in runs/
results: .venv/installed
	$(BIN)/fedn-partial results

# Write the README's pictures: make pictures QUICKSTART="runs/NAME runs/OTHER" PROFILE=runs/NAME (needs Chromium)
pictures: .venv/installed
	PYTHONPATH=tests/harness $(BIN)/python docs/pictures/make.py report-quickstart $(QUICKSTART)
	PYTHONPATH=tests/harness $(BIN)/python docs/pictures/make.py report-profile $(PROFILE)
	$(BIN)/python docs/pictures/pipeline.py

# Update constraints.txt to the newest versions, show the changes, and run all tests: docs/VERSIONS.md
constraints: .venv/installed
	$(BIN)/python .ci/resolve.py > constraints.new
	mv constraints.new constraints.txt
	git --no-pager diff --unified=0 constraints.txt
	$(MAKE) test

# As a variable, the constraints also apply to the build environment.
.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install --quiet --editable '.[local,dev]'
	touch $@

.PHONY: run test bench faults results pictures constraints
