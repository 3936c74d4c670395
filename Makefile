# make demo            render a few minutes of footage and run the whole pipeline over it
# make demo VIDEOS=dir  the same over your own videos; tables and clips go to OUT (default: demo)
# make test            the tests
# make check           format, lint, types, tests
# make fix             format and mend what can be mended by itself
# make bench           the benchmarks
# make clean           remove what these made, but not .venv

PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo
VIDEOS ?=

.PHONY: demo test check fix bench clean

# uv takes a minute where pip takes many; pip helps where uv cannot, for uv does not read pip's settings.
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q
install = $(PIP) uv && $(BIN)/uv pip install -q --python $(BIN)/python -r $(1) || $(PIP) -r $(1)

.venv/run: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call install,requirements.txt)
	touch $@

.venv/dev: requirements-dev.txt .venv/run
	$(call install,requirements-dev.txt)
	touch $@

demo: .venv/run
ifeq ($(VIDEOS),)
	$(BIN)/python -m tools.make_demo $(OUT)/videos
endif
	$(BIN)/python -m script.pipeline_runner config/quickstart.yaml \
	  --set paths.ROOT_VIDEO='$(or $(VIDEOS),$(OUT)/videos)' \
	  --set paths.ROOT_CLIPS='$(OUT)/clips' --set paths.ROOT_META='$(OUT)/meta'

# Most tests wait for programs that they start: two files at a time.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/dev
	$(PYTEST)

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

fix: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev
	for name in one_pass rerun tables processes clip_once model_costs caption_api; do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
