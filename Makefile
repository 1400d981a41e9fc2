# The commands of the course. `make` alone lists them.
# Plain POSIX shell and no feature newer than GNU Make 3.81, which is what macOS ships.

# PYTHON chooses the Python that .venv is made with, as in: make setup PYTHON=/opt/python3.12/bin/python3
PYTHON ?=
LAB_OPTIONS ?=
NOTEBOOKS ?=
REPOSITORY ?=
REF ?=
VENV_PYTHON = .venv/bin/python
STAMP = .venv/.requirements-installed

# Prints "3.12.1", and " no-venv" behind it where this Python cannot make an environment. Old Pythons read it too.
PROBE = import sys; print("%d.%d.%d" % sys.version_info[:3]); import venv, ensurepip
NEEDED = This course needs Python 3.11, 3.12 or 3.13

# With this set, kernels draw no figures into notebooks.
unexport MPLBACKEND
# Tests and committed outputs are of the bundled model, also where a GPU would make notebook 04 choose a larger one.
test outputs: export GRPO_PROFILE = tiny

.PHONY: help setup lab run test lint bench outputs publish clean

help:
	@echo "make lab      open the course in JupyterLab (LAB_OPTIONS=... is passed on, e.g. --no-browser)"
	@echo "make run      execute all notebooks into build/run/ and print the results before and after training;"
	@echo "              replaces what the previous 'make run' wrote there, nothing else"
	@echo "make test     run the tests, then every notebook"
	@echo "make lint     check style, and that the committed notebook outputs are in order"
	@echo "make bench    measure how fast programs are graded, beside other ways; six minutes, into build/bench/"
	@echo "make outputs  execute the notebooks in place: refreshes the committed outputs"
	@echo "make publish REPOSITORY=https://github.com/you/name [REF=a-tag]"
	@echo "              write the course's address into its bootstrap cells and Colab badges"
	@echo "make setup    only make .venv and install requirements.txt (the commands above do it where it is due)"
	@echo "make clean    remove .venv, caches, and what run, test, outputs and bench wrote below build/"
	@echo "NOTEBOOKS=... for run and outputs: only those whose names begin so, as in: make outputs NOTEBOOKS=04"
	@echo "PYTHON=...    before or after any of them: the Python to make .venv with (3.11 to 3.13)"

# Does nothing where .venv runs, was made with the PYTHON asked for, and holds this requirements.txt.
setup:
	@set -e; \
	probe() { "$$1" -c '$(PROBE)' 2>/dev/null | head -n 1 | sed 's/^Python //'; }; \
	can_make_environments() { "$$1" -c '$(PROBE)' >/dev/null 2>&1; }; \
	fits() { case "$$1" in 3.11.*|3.12.*|3.13.*) true;; *) false;; esac; }; \
	chosen=''; found=''; asked='$(PYTHON)'; \
	version=$$(probe $(VENV_PYTHON)); \
	if [ -n "$$asked" ]; then \
	    given=$$(probe "$$asked"); \
	    if ! fits "$$given"; then \
	        echo "$(NEEDED); PYTHON=$$asked is $${given:-no Python that runs}." >&2; exit 1; \
	    fi; \
	    if [ -n "$$version" ] && [ "$${version%.*}" != "$${given%.*}" ] && [ ! -e $(STAMP) ]; then \
	        echo "The .venv here is of Python $$version and not made by make; to use $$asked, remove it: rm -r .venv" >&2; \
	        exit 1; \
	    fi; \
	    [ "$${version%.*}" = "$${given%.*}" ] || { version=''; chosen=$$asked; }; \
	fi; \
	if [ -n "$$version" ] && ! fits "$$version"; then \
	    echo "$(NEEDED); .venv is $$version. Remove it and try again: rm -r .venv" >&2; exit 1; \
	fi; \
	if [ -z "$$version" ]; then \
	    for candidate in $${chosen:+"$$chosen"} $(if $(PYTHON),,python3 python3.13 python3.12 python3.11); do \
	        offered=$$(probe "$$candidate"); \
	        if fits "$$offered" && can_make_environments "$$candidate"; then version=$$offered; break; fi; \
	        if fits "$$offered"; then offered="$$offered without venv"; fi; \
	        if [ -n "$$offered" ]; then found="$$found$${found:+, }$$candidate is $$offered"; fi; \
	    done; \
	    if [ -z "$$version" ]; then \
	        echo "$(NEEDED) that can make environments (on Debian and Ubuntu: apt install python3-venv);" \
	            "found: $${found:-no Python at all}. Name one with PYTHON=..." >&2; exit 1; \
	    fi; \
	    echo "Making .venv with $$candidate (Python $$version)"; \
	    rm -f $(STAMP); \
	    "$$candidate" -m venv --clear .venv; \
	fi; \
	wanted="$$version $$(cksum < requirements.txt)"; \
	if [ "$$wanted" != "$$(cat $(STAMP) 2>/dev/null)" ]; then \
	    echo "Installing requirements.txt into .venv: one to ten minutes, most of it PyTorch's download, without further lines"; \
	    rm -f $(STAMP); \
	    $(VENV_PYTHON) -m pip --version >/dev/null 2>&1 || $(VENV_PYTHON) -m ensurepip >/dev/null; \
	    $(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -r requirements.txt || { \
	        echo "The installation did not finish; the same command goes on from here." >&2; exit 1; }; \
	    echo "$$wanted" > $(STAMP); \
	    echo "Ready."; \
	fi

lab: setup
	@$(VENV_PYTHON) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks $(LAB_OPTIONS)

run: setup
	@$(VENV_PYTHON) -m tools.notebooks run $(NOTEBOOKS)

# Two calls: what tests/conftest.py sets is not meant for the notebooks' kernels, which also want both cores.
test: setup
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile --durations=10 tests
	@rm -rf build/test; if ls notebooks/*.ipynb >/dev/null 2>&1; then set -x; \
	    COURSE_OUTPUT="$(CURDIR)/build/test" $(VENV_PYTHON) -m pytest --nbmake --nbmake-timeout=600 --timeout=1800 \
	        --durations=0 notebooks; \
	else echo "There is no notebook in notebooks/ to run."; fi

lint: setup
	$(VENV_PYTHON) -m ruff check helpers tests tools notebooks
	$(VENV_PYTHON) -m ruff format --check helpers tests tools notebooks
	$(VENV_PYTHON) -m tools.notebooks check

bench: setup
	@$(VENV_PYTHON) -m tools.benchmark

outputs: setup
	@$(VENV_PYTHON) -m tools.notebooks outputs $(NOTEBOOKS)

publish: setup
	@$(VENV_PYTHON) -m tools.notebooks publish $(REPOSITORY) $(REF)

clean:
	rm -rf .venv .pytest_cache .ruff_cache build/run build/test build/outputs build/bench
	find helpers tests tools notebooks -name __pycache__ -prune -exec rm -rf {} +
