# Everything runs from .venv, made here on first use; PYTHON names the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types pytest coverage long conformance beside browser screenshots large slow-line systemd-test deb release-check bench bench-quick faults faults-once soak clean

demo: $(VENV)/.installed
	$(BIN)/python -m tests.demo $(if $(KEEP),--keep)

test: lint types pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.installed
	$(BIN)/mypy

pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

# The tests of `make test` with their coverage, by lines and branches; what runs in other processes is not counted.
coverage: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term $(PYTEST_ARGS)

# The tests that would keep `make test` from being quick: commands and daemons as processes, one after the other.
long: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long $(PYTEST_ARGS)

# One suite against moto, LocalStack, rclone and Ceph, the daemon against servers that play other dialects, and all
# against a server of yours if CONFORMANCE_ENDPOINT_URL names one (with CONFORMANCE_REGION, _ACCESS_KEY_ID,
# _SECRET_ACCESS_KEY and, to use a bucket that is there, _BUCKET). LocalStack and rclone are installed once, into
# .localstack-venv and .rclone-venv; Ceph needs Debian's ceph-mon, ceph-osd, radosgw.
conformance: $(VENV)/.installed
	$(BIN)/python -m tests.conformance.tool_venv
	CONFORMANCE_BACKENDS=moto,localstack,rclone,ceph $(BIN)/python -m pytest -n 2 --dist loadgroup -rs \
		tests/conformance $(PYTEST_ARGS)

# Twenty videos through the stand-in compressor and the daemon, again and again, each time disturbed elsewhere.
beside: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/beside $(PYTEST_ARGS)

# The status page in Debian's chromium: what a person sees. It says why where there is none.
browser: $(VENV)/.installed
	$(BIN)/python -m pytest -rs tests/browser $(PYTEST_ARGS)

# The screenshots in docs/ again.
screenshots: $(VENV)/.installed
	$(BIN)/python -m tests.browser.screenshots

# Files of 5 GiB that take little disk, through the whole daemon, in about two minutes.
large: $(VENV)/.installed
	$(BIN)/python -m pytest -s tests/large $(PYTEST_ARGS)

# A line of 512 kbit/s, in a network namespace, under a stand-in for systemd's watchdog, in about two minutes.
slow-line: $(VENV)/.installed
	$(BIN)/python -m pytest -s tests/slow_line $(PYTEST_ARGS)

# The Debian package and its service under a real systemd, which a container boots; its root file system is made once, into .systemd-root, by
# Debian's debootstrap and systemd-container.
systemd-test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs tests/systemd $(PYTEST_ARGS)

# A Debian package for the Debian whose Python is of the same minor version; it is written into build/.
deb: $(VENV)/.installed
	packaging/build-deb $(BIN)/python build

# The wheel, the sdist and the Debian package, each on a bare Python with a real video, in about two minutes.
release-check: $(VENV)/.installed
	$(BIN)/python -m pytest -rs tests/release $(PYTEST_ARGS)

# The daemon beside s5cmd, rclone, the AWS CLI and a line in a shell, on a sink of its own that gcc compiles (Debian's
# gcc, libc6-dev, libssl-dev, inotify-tools), and what it costs to wait, to start and to grow; the results go into
# benchmarks/results and docs/performance.md. ONLY=large,small runs some of its parts, REPEATS= fewer rounds, SHARE=0.1
# fewer small files, ROWS= a smaller large ledger, and QUIET= says how many seconds each part may wait for a quiet machine.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(REPEATS),--repeats $(REPEATS)) \
		$(if $(SHARE),--share $(SHARE)) $(if $(ROWS),--rows $(ROWS)) $(if $(QUIET),--quiet $(QUIET))

# A little of all of it, in about two minutes, to see that it runs; it keeps nothing.
bench-quick: $(VENV)/.installed
	$(BIN)/python -m benchmarks --quick $(if $(ONLY),--only $(ONLY))

# Every fault, under the real daemon, and a table of what came of it, which is put into docs/reliability.md if it is whole.
FAULTS := -m pytest -n 2 --dist worksteal -m fault tests/faults tests/integration
faults: $(VENV)/.installed
	ANY_ORDER_EXAMPLES=200 $(BIN)/python $(FAULTS) --fault-table docs/reliability.md $(PYTEST_ARGS)

# Every fault once, in five minutes; the flood is a smaller one.
faults-once: $(VENV)/.installed
	ANY_ORDER_EXAMPLES=40 FLOOD_FILES=4000 $(BIN)/python $(FAULTS) --each-fault-once $(PYTEST_ARGS)

# What finds more the longer it runs, each for about SECONDS: the container walks on mutated files, whose new kinds
# of findings join tests/faults/corpus; everything that can happen in any order; the play beside the compressor.
# Last the whole of the slow line, which takes half an hour.
SECONDS ?= 60
soak: $(VENV)/.installed
	FUZZ_SECONDS=$(SECONDS) FUZZ_KEEP=1 $(BIN)/python -m pytest tests/unit/watcher/test_container_fuzz.py $(PYTEST_ARGS)
	ANY_ORDER_EXAMPLES=$$((2 * $(SECONDS))) ANY_ORDER_STEPS=30 ANY_ORDER_AT_RANDOM=1 $(BIN)/python -m pytest \
		--override-ini timeout=0 tests/integration/test_any_order.py $(PYTEST_ARGS)
	end=$$(($$(date +%s) + $(SECONDS))); while $(BIN)/python -m pytest -q tests/beside -k "starts or kills" && \
		[ $$(date +%s) -lt $$end ]; do :; done; [ $$(date +%s) -ge $$end ]
	$(BIN)/python -m pytest -s -m "long or not long" tests/slow_line $(PYTEST_ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "video-uploader needs Python 3.11 or newer; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .localstack-venv .rclone-venv .bench-venv .systemd-root .systemd-root.lock .\#.systemd-root.lck build *.egg-info .import_linter_cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
