"""Services as real processes on free ports. They are always ended, and a test that fails shows their logs."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from support.processes.ports import free_port

READY_SECONDS = 30.0
"""A fresh machine compiles every import first, and starts several services at once."""

STOP_SECONDS = 10.0
"""A service exits within 5 s."""

SHOWN_LINES = 200

running: list["Service"] = []
"""Every running service. A test that fails shows the logs of those that are still running."""


class Service:
    """A process `python -m MODULE ARGUMENTS`, started at once. `ready` is the text after its `ready` line."""

    def __init__(self, *arguments: str, command: tuple[str, ...] = (sys.executable, "-m")) -> None:
        self.name = arguments[0]
        self._arguments, self._command = arguments, command
        self.ready = ""
        self._ready_or_ended = threading.Event()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=self._log, stdin=subprocess.DEVNULL, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        running.append(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is not None:
            print(f"--- log of {self.name}\n{self.log}", file=sys.stderr)
        self.stop(check=error is None)

    def wait_ready(self) -> Self:
        """Wait for the `ready` line. Raises AssertionError with the log after `READY_SECONDS` without it."""
        self._ready_or_ended.wait(READY_SECONDS)
        assert self.ready, f"{self.name} did not get ready:\n{self.log}"
        return self

    def again(self) -> "Service":
        """Start another process with the same arguments."""
        return Service(*self._arguments, command=self._command)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """The last lines of standard error."""
        copy = Path(f"/proc/self/fd/{self._log.fileno()}").read_text(errors="replace")
        return "\n".join(copy.splitlines()[-SHOWN_LINES:])

    def terminate(self) -> None:
        """Send SIGTERM, as an orchestrator does."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL. The exit does not count as a failure."""
        running.remove(self)
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> int:
        """Wait until it exits, and return its exit code."""
        return self._process.wait(seconds)

    def wait_for_log(self, pattern: str, seconds: float = 10.0) -> re.Match[str]:
        """Wait until the log has a match of `pattern`."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.log)) is None:
            assert time.monotonic() < deadline, f"{self.name} never logged {pattern!r}:\n{self.log}"
            time.sleep(0.01)
        return found

    def stop(self, *, check: bool = True) -> None:
        """Interrupt it, also during calls, and kill it if it does not exit. With `check` it must exit cleanly."""
        if self in running:
            running.remove(self)
        killed = self._process.returncode == -signal.SIGKILL
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        log = self.log
        self._log.close()
        assert code == 0 or killed or not check, f"{self.name} ended with code {code}:\n{log}"

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                if line.startswith("ready ") and not self.ready:
                    self.ready = line.removeprefix("ready ").strip()
                    self._ready_or_ended.set()
        self._ready_or_ended.set()


class Deployment:
    """A running Antiphon: its URL for callers, and the admin addresses for its metrics."""

    def __init__(
        self,
        url: str,
        services: Mapping[str, Service],
        relay_admin: str,
        *transceiver_admins: str,
        secret_file: Path | None = None,
        signaling_admin: str = "",
    ) -> None:
        self.url = url.rstrip("/")
        self.services = services
        self.relay_admin = relay_admin
        self.signaling_admin = signaling_admin
        self.transceiver_admins = transceiver_admins
        self.transceiver_admin = transceiver_admins[0]
        self.secret_file = secret_file

    @property
    def media(self) -> str:
        """The relay's own media address, which may differ from the advertised one. Only for services that run apart."""
        return self.services["relay"].ready.split()[0].partition("=")[2]

    @property
    def secret(self) -> str:
        """The text of the secret file."""
        assert self.secret_file is not None
        return self.secret_file.read_text()

    def relay_metrics(self) -> dict[str, float]:
        return read_metrics(self.relay_admin)

    def transceiver_metrics(self) -> dict[str, float]:
        return read_metrics(self.transceiver_admin)

    def calls(self) -> int:
        """Return the present number of calls of the transceiver."""
        return int(self.transceiver_metrics()["antiphon_calls"])


@contextmanager
def all_in_one(*arguments: str, backend: str = "loopback") -> Iterator[Deployment]:
    """Run `python -m antiphon` on free ports. `arguments` are appended to those of the harness."""
    admin = free_port()
    settings = ["--http", "127.0.0.1:0", "--media", "127.0.0.1:0", "--control", "127.0.0.1:0"]
    settings += ["--backend", backend, "--admin", f"127.0.0.1:{admin}"]
    with Service("antiphon", *settings, *arguments) as service:
        url = service.wait_ready().ready
        yield Deployment(url, {"antiphon": service}, f"127.0.0.1:{admin}", f"127.0.0.1:{admin}")


@contextmanager
def apart(
    *,
    audio: str = "pcm16/24000",
    backend: str = "loopback",
    capacity: int = 100,
    transceivers: int = 1,
    advertise: str | None = None,
    shared: Sequence[str] = (),
    backends: Mapping[str, str] | None = None,
) -> Iterator[Deployment]:
    """Run each service as a separate process on free ports, as the README's recipe does.

    The second transceiver is `services["transceiver 2"]`. `advertise` is sent to callers in place of the relay's media
    address. `shared` are more settings of relay, transceivers and signaling. With `--redis` the services find each
    other there. `backends` are the URLs of further backends, by name.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        secret = ("--secret-file", str(folder / "secret"), *shared)
        subprocess.run([sys.executable, "-m", "antiphon", "keygen", secret[1]], check=True)
        services: dict[str, Service] = {}

        def start(name: str, module: str, *arguments: str) -> str:
            services[name] = stack.enter_context(Service(module, *arguments))
            return services[name].wait_ready().ready

        slots = ("--slots", str(capacity * transceivers))
        model = start("backend", f"antiphon_backend.{backend}", "--listen", "127.0.0.1:0", *slots)
        admin = [f"127.0.0.1:{free_port()}" for _ in range(2 + transceivers)]
        others = [word for name, there in (backends or {}).items() for word in ("--backend", f"{name}={there}")]
        controls = [
            start(
                "transceiver" if number == 1 else f"transceiver {number}", "antiphon_transceiver", *secret,
                "--control", "127.0.0.1:0", "--backend", f"{backend}={model}", *others, "--audio", audio,
                "--capacity", str(capacity), "--admin", admin[1 + number],
            )
            for number in range(1, transceivers + 1)
        ]  # fmt: skip
        found = [] if "--redis" in shared else [word for url in controls for word in ("--transceiver", url)]
        media = start("relay", "antiphon_relay", *secret, "--media", "127.0.0.1:0", "--admin", admin[0], *found)
        advertised = advertise or media.split()[0].partition("=")[2]
        url = start(
            "signaling", "antiphon_signaling", *secret, "--http", "127.0.0.1:0", "--advertise", advertised,
            "--admin", admin[1], *found,
        )  # fmt: skip
        yield Deployment(url, services, admin[0], *admin[2:], secret_file=Path(secret[1]), signaling_admin=admin[1])


def read_metrics(address: str) -> dict[str, float]:
    """Fetch /metrics. Return the values by name, with labels as in the response."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}
