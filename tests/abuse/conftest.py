"""One setup for all floods. Its tables are printed at the end."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.floods.scenario import SCENARIO_HEADING
from support.floods.setup import TRANSCEIVERS, FloodSetup
from support.floods.spoofed_flood import HEADING
from support.processes.line_process import LineProcess, python_path
from support.processes.services import Service, apart


@pytest.fixture(scope="session")
def junk_backend() -> Iterator[LineProcess]:
    backend = LineProcess("support.floods.junk_backend")
    try:
        backend.wait_ready()
        yield backend
    finally:
        backend.kill()


@pytest.fixture(scope="session")
def setup(tmp_path_factory: pytest.TempPathFactory, junk_backend: LineProcess) -> Iterator[FloodSetup]:
    with ExitStack() as stack:
        command = ("env", f"PYTHONPATH={python_path()}", sys.executable, "-m")
        events = stack.enter_context(
            Service("support.processes.events_backend", "--listen", "127.0.0.1:0", command=command)
        ).wait_ready()
        backends = {"junk": junk_backend.ready, "events": events.ready}
        deployment = stack.enter_context(
            apart(audio="opus", transceivers=TRANSCEIVERS, capacity=200, backends=backends)
        )
        setup = FloodSetup(deployment, tmp_path_factory.mktemp("flood"))
        stack.callback(setup.close)
        yield setup
        print(f"\n\nThe relay sustains {setup.sustained:,.0f} packets a second.\n{HEADING}")
        print("\n".join(setup.spoofed_rows))
        print(f"\n{SCENARIO_HEADING}")
        print("\n".join(setup.scenario_rows))
