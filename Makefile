# The commands of the course. `make` alone lists them.
# This is plain POSIX shell and uses nothing newer than GNU Make 3.81, the version that macOS ships.

# The Python that .venv is made with, for example: make setup PYTHON=python3.12
PYTHON ?= python3
LAB_OPTIONS ?=
NOTEBOOKS ?=
REPOSITORY ?=
REF ?=
# A folder made by `make wheels`. Setup then takes all packages from it, and needs no network.
WHEELS ?=
FOR ?=
FOR_PYTHON ?=
CHROMIUM ?=
VENV_PYTHON = .venv/bin/python
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# If MPLBACKEND is set, notebooks show no figures.
unexport MPLBACKEND

.PHONY: help setup check lab run test lint bench outputs publish student solutions slides handout wheels browser links clean

help:
	@echo "make lab      open the first notebook in JupyterLab (LAB_OPTIONS=... is passed on, e.g. --no-browser)"
	@echo "make check    say in about twenty seconds whether this machine is ready, and if not, what to do"
	@echo "make run      execute all notebooks into build/run/ and print the results before and after training;"
	@echo "              replaces what the previous 'make run' wrote there, nothing else"
	@echo "make test     run the tests, then every notebook"
	@echo "make browser  run every notebook in a real browser and look at it, at the slides too if they are made (needs Chromium)"
	@echo "make links    ask for every web address in the texts whether it is still there"
	@echo "make lint     check style, types, spelling, imports, and that the committed notebooks are in order"
	@echo "make bench    benchmark the sampler, and the verifier against three other graders; six minutes, writes to build/bench/"
	@echo "make outputs  execute the notebooks and replace their committed outputs"
	@echo "make publish REPOSITORY=https://github.com/you/name [REF=a-tag]"
	@echo "              write the course's address into its bootstrap cells and its links to Colab"
	@echo "make student  the course to hand out, without solutions and outputs: build/student/"
	@echo "make solutions  the notebooks with every exercise answered, in two minutes: build/solutions/"
	@echo "make slides   a slide show of each notebook, to show without a network: build/slides/ (needs npm)"
	@echo "make handout  formulas and symptoms on two pages: build/handout/handout.pdf (needs npm and Chromium)"
	@echo "make wheels   all packages in build/wheels/, for laptops without a network: there, make lab WHEELS=FOLDER"
	@echo "              FOR=linux, linux-arm or macos, and FOR_PYTHON=3.12, if theirs differ from this machine"
	@echo "make setup    only make .venv and install requirements.txt (the commands above do so if needed)"
	@echo "make clean    remove .venv, caches, and what these commands wrote to build/"
	@echo "NOTEBOOKS=... for run, outputs, student, solutions and slides: only notebooks whose names start with this, as in: make outputs NOTEBOOKS=04"
	@echo "PYTHON=...    the Python to make .venv with, 3.11 to 3.13; to change it later, run make clean first"

setup: .venv/ready
	@:

# Make runs this again if requirements.txt changes, or if it did not finish. A usable .venv is kept, so pip continues
# where it was interrupted.
.venv/ready: requirements.txt
	@if ! $(VENV_PYTHON) -c 'import pip; $(SUPPORTED)' 2>/dev/null; then \
	    "$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { \
	        echo "This course needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is not one of these." \
	            "If you have one, name it: make setup PYTHON=python3.12" >&2; exit 1; }; \
	    "$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { \
	        echo "$(PYTHON) cannot make environments: its module venv is missing." \
	            "On Debian and Ubuntu, type: sudo apt install python3-venv" >&2; exit 1; }; \
	    echo "Making .venv with $(PYTHON)"; \
	    "$(PYTHON)" -m venv --clear .venv; \
	fi
	@test -z "$(WHEELS)" || test -d "$(WHEELS)" || { echo "There is no folder $(WHEELS) to install from." >&2; exit 1; }
	@echo "Installing requirements.txt into .venv. This takes one to ten minutes, most of it to download PyTorch."
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check $(if $(WHEELS),--no-index --find-links "$(WHEELS)") \
	    -r requirements.txt || { \
	    echo "The installation did not finish. Type the same command again to continue." >&2; exit 1; }
	@touch $@

# JupyterLab refuses to run as root (in a container, say) unless it is told to. The settings in tools/jupyterlab keep it
# from asking whether it may fetch news.
lab: setup
	@$(VENV_PYTHON) -m jupyterlab --allow-root --LabApp.default_url=/lab/tree/notebooks/01_rlhf_vs_rlvr.ipynb \
	    --LabApp.app_settings_dir="$(CURDIR)/tools/jupyterlab" $(LAB_OPTIONS)

check: setup
	@$(VENV_PYTHON) -m tools.check

run: setup
	@$(VENV_PYTHON) -m tools.notebooks run $(NOTEBOOKS)

# Tests and the examples in docstrings. The verifier's scripts are left out: outside their folder they cannot be imported.
WITHOUT_SCRIPTS = $(addprefix --ignore=helpers/verifier/,isolation.py judge.py nursery.py tally.py)
WITH_TESTS = @test -d tests || { echo "This copy of the course has no tests. A clone of the repository has them." >&2; exit 1; }
# There are two calls because the environment that tests/conftest.py sets is not meant for the notebooks' kernels.
# A notebook keeps about one core busy, so two run side by side, with one thread each.
test: setup
	$(WITH_TESTS)
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile --durations=10 --doctest-modules $(WITHOUT_SCRIPTS) tests helpers
	@rm -rf build/test
	OMP_NUM_THREADS=1 COURSE_OUTPUT="$(CURDIR)/build/test" $(VENV_PYTHON) -m pytest -n 2 --maxschedchunk=1 \
	    --nbmake --nbmake-timeout=600 --timeout=1800 --durations=0 notebooks

# A spelling checker of its own folder, because notebooks are stale if requirements.txt changes.
build/lint/ready: tools/lint.txt | setup
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target build/lint -r tools/lint.txt
	@touch $@

lint: build/lint/ready
	$(WITH_TESTS)
	$(VENV_PYTHON) -m ruff check helpers tests tools notebooks
	$(VENV_PYTHON) -m ruff format --check helpers tests tools notebooks
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -m tools.imports
	$(VENV_PYTHON) -m tools.notebooks check
	$(VENV_PYTHON) -m tools.numbers
	PYTHONPATH=build/lint $(VENV_PYTHON) -m codespell_lib

links: setup
	@$(VENV_PYTHON) -m tools.links

bench: setup
	@$(VENV_PYTHON) -m tools.sampling_speed
	@$(VENV_PYTHON) -m tools.benchmark

outputs: setup
	@$(VENV_PYTHON) -m tools.notebooks outputs $(NOTEBOOKS)

publish: setup
	@$(VENV_PYTHON) -m tools.notebooks publish $(REPOSITORY) $(REF)

student: setup
	@$(VENV_PYTHON) -m tools.teaching student $(NOTEBOOKS)

solutions: setup
	@$(VENV_PYTHON) -m tools.teaching solutions $(NOTEBOOKS)

slides: setup
	@$(VENV_PYTHON) -m tools.slides $(NOTEBOOKS)

# Playwright and, if the system has no Chromium, one of its own. They are not in .venv, because readers do not need them.
WITH_BROWSER = PYTHONPATH="$(CURDIR)/build/browser" PLAYWRIGHT_BROWSERS_PATH="$(CURDIR)/build/browser/chromium"
build/browser/ready: tools/browser.txt | setup
	@echo "Installing playwright into build/browser, and Chromium if there is none."
	@$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check --upgrade --target build/browser \
	    -r tools/browser.txt || { echo "playwright could not be installed. This needs a network once." >&2; exit 1; }
	@test -n "$(CHROMIUM)" || command -v chromium chromium-browser google-chrome >/dev/null || \
	    $(WITH_BROWSER) $(VENV_PYTHON) -m playwright install chromium || { \
	        echo "Chromium could not be installed. Install it, or name it: make handout CHROMIUM=/path/to/chromium" >&2; exit 1; }
	@touch $@

handout: build/browser/ready
	@$(WITH_BROWSER) CHROMIUM="$(CHROMIUM)" $(VENV_PYTHON) -m tools.handout

browser: build/browser/ready
	@$(WITH_BROWSER) CHROMIUM="$(CHROMIUM)" $(VENV_PYTHON) -m tools.browser $(NOTEBOOKS)

wheels: setup
	@$(VENV_PYTHON) -m tools.wheels "$(FOR)" "$(FOR_PYTHON)"

clean:
	rm -rf .venv .pytest_cache .ruff_cache $(addprefix build/,\
	    bench browser handout lint mypy npm outputs run slides solutions student test twice wheels)
	find helpers tests tools notebooks -name __pycache__ -prune -exec rm -rf {} +
