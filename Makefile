# `make run` and `make test` need python3 >= 3.11, make and a package index; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Every `make run` gets a folder of its own: nothing is overwritten.
RUN := runs/first-$(shell date +%Y%m%d-%H%M%S)

.PHONY: run test docs dist format clean

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[deep,plot,dev]'
	touch $@

run: .venv/installed
	$(BIN)/dmpo bounds --out $(RUN)/bounds
	$(BIN)/dmpo train catchup --algo dmpo --seed 0 --steps 4800 --out $(RUN)/dmpo-s0
	$(BIN)/dmpo train catchup --algo dppo --seed 0 --steps 48000 --out $(RUN)/dppo-s0
	$(BIN)/dmpo plot $(RUN)/dmpo-s0 $(RUN)/dppo-s0 --out $(RUN)/learning
	@echo
	@echo 'Verdicts, their figure and CSV files: $(RUN)/bounds'
	@echo 'Runs:                                 $(RUN)/dmpo-s0  $(RUN)/dppo-s0'
	@echo 'Learning curves and table:            $(RUN)/learning'

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal --hypothesis-profile=ci tests verification dmpo_theory dmpo_deep README.md CONTRIBUTING.md docs/*.md docs/*/*.md

# About two minutes: the notebooks are run. Every warning is an error; nothing is fetched.
docs: .venv/documented
	rm -rf docs/api docs/_build
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo
	@echo 'Site: docs/_build/html/index.html'

.venv/documented: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# Wheel and sdist into dist/; the wheel is then installed into a virtual environment of its own and used.
dist: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	DMPO_WHEEL="$$(ls dist/*.whl)" $(BIN)/pytest -m slow tests/test_dist.py

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info docs/api docs/_build
