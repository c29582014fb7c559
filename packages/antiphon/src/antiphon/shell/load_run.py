"""Makes many real calls at once, and reports the results of each call and the load of the client itself."""

import os
import resource
import time
from collections.abc import Callable

import httpx
import msgspec
import trio

from antiphon.client.call import AudioReceived, ClientCall, ClientCallEvent, ClientClosed, ClientConnected
from antiphon.client.report import CallReport, LoadReport
from antiphon.client.speech import RecordedSpeech
from antiphon.shell.client_driver import CallDriver, DrivenCall
from antiphon_common.errors import AntiphonError, DecodeError
from antiphon_transceiver.dtls import Certificate
from antiphon_transceiver.rtp import NTP_EPOCH

CONNECT_TIMEOUT = 30.0
"""Seconds after which a call that is not connected counts as failed."""

LINGER = 1.0
"""Seconds after the last speech in which packets in flight and audio that waits at the server may still arrive."""

Progress = Callable[[str], None]


class LoadSettings(msgspec.Struct, frozen=True):
    """The settings of a run, for `run_load` and `LoadGenerator`.

    `calls` are set up at `rate` per second. When all are set up, they send speech for `seconds`. `url` is that of the
    signaling server, and `key` its API key.
    """

    url: str
    calls: int = 10
    seconds: float = 10.0
    rate: float = 20.0
    key: str | None = None
    model: str | None = None
    verify_tls: bool = True


class LoadError(AntiphonError):
    """The run is impossible. `run_load` raises it; the message contains what to do."""


class _Caller:
    """One call of a run. `connect` sets it up, and `hang_up` ends it; `report` has its results."""

    def __init__(self, driver: CallDriver, certificate: Certificate, speech: RecordedSpeech) -> None:
        now = trio.current_time()
        core = ClientCall(certificate, os.urandom, now, ntp_offset=time.time() - now + NTP_EPOCH)
        self.report = CallReport()
        self.call = DrivenCall(core, self._listen)
        self._driver = driver
        self._speech = speech
        self._offered = now
        self._connected = trio.Event()

    async def connect(self, http: httpx.AsyncClient, settings: LoadSettings) -> None:
        """Post the offer, and wait until the call is connected. A failure is recorded in `report`."""
        self._offered = trio.current_time()
        parameters = {"model": settings.model} if settings.model else {}
        headers = {"Content-Type": "application/sdp"}
        offer = self.call.core.offer()
        try:
            response = await http.post("/v1/realtime/calls", content=offer, params=parameters, headers=headers)
        except httpx.HTTPError as error:
            self.report.failure = f"no answer: {error!r}"
            return
        if response.status_code != httpx.codes.CREATED:
            self.report.failure = f"HTTP {response.status_code}: {_error_message(response)}"
            return
        now = trio.current_time()
        self.report.answered_after = now - self._offered
        try:
            self.call.core.accept(response.text, now)
        except DecodeError as error:
            self.report.failure = str(error)
            return
        self._driver.add(self.call)
        with trio.move_on_after(CONNECT_TIMEOUT):
            await self._connected.wait()
        if self.report.connected_after is None:
            self.report.failure = self.report.failure or f"not connected after {CONNECT_TIMEOUT:g} s"

    def hang_up(self) -> None:
        """Close the call and complete its report."""
        core, report = self.call.core, self.report
        report.sent = self.call.speech_sent
        report.round_trip = core.reporter.round_trip
        sources = core.receiver.sources.values()
        report.jitter = max((source.jitter for source in sources), default=0.0)
        report.lost = sum(source.packets_lost for source in sources)
        core.close(trio.current_time())
        if report.answered_after is not None:
            self._driver.touch(self.call)
            self._driver.remove(self.call)
        else:
            self.call.socket.close()

    def _listen(self, event: ClientCallEvent, now: float) -> None:
        report = self.report
        match event:
            case ClientConnected():
                report.connected_after = now - self._offered
                self.call.start_speech(self._speech.packets, now)
                self._connected.set()
            case AudioReceived():
                if report.first_audio_after is None:
                    report.first_audio_after = now - self._offered
                report.received += 1
                index = self._speech.index_of.get(event.payload)
                if index is not None:
                    report.echo_delays.append(now - self.call.sent_at(index))
            case ClientClosed():
                if event.reason != "closed":
                    report.failure = report.failure or event.reason
                self._connected.set()


class LoadGenerator:
    """Any number of calls to one server, which one task serves.

    Start `run`. Then `add` calls and let them `talk`, repeatedly if wanted. At the end, `stop_speech` and `hang_up`.
    """

    def __init__(self, settings: LoadSettings) -> None:
        self.driver = CallDriver()
        self._settings = settings
        self._certificate = Certificate.generate()
        self._speech = RecordedSpeech.shipped()
        self._callers: list[_Caller] = []
        headers = {"Authorization": f"Bearer {settings.key}"} if settings.key else {}
        self._http = httpx.AsyncClient(
            base_url=settings.url, headers=headers, verify=settings.verify_tls, timeout=CONNECT_TIMEOUT
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the calls until cancelled."""
        async with self._http:
            task_status.started()
            await self.driver.run()

    @property
    def reports(self) -> list[CallReport]:
        """The results of each call, in the order of their offers. They are complete after `hang_up`."""
        return [caller.report for caller in self._callers]

    @property
    def connected(self) -> int:
        """Number of calls that have not failed."""
        return sum(report.failure is None for report in self.reports)

    @property
    def datagrams(self) -> tuple[int, int]:
        """Number of datagrams sent and received by all calls."""
        calls = [caller.call for caller in self._callers]
        return sum(call.packets_sent for call in calls), sum(call.packets_received for call in calls)

    async def add(self, calls: int, progress: Progress = lambda line: None) -> None:
        """Make `calls` more calls, at the rate of the settings. Return when each is connected or has failed."""
        async with trio.open_nursery() as nursery:
            for number in range(1, calls + 1):
                caller = _Caller(self.driver, self._certificate, self._speech)
                self._callers.append(caller)
                nursery.start_soon(caller.connect, self._http, self._settings)
                await trio.sleep(1 / self._settings.rate)
                if number % 50 == 0:
                    progress(f"{number} of {calls} offers made")

    async def talk(self, seconds: float) -> tuple[float, float]:
        """Wait while the calls send speech. Return the elapsed seconds, and the share of a processor that this process
        used."""
        began, cpu = trio.current_time(), _cpu_seconds()
        await trio.sleep(seconds)
        elapsed = trio.current_time() - began
        return elapsed, (_cpu_seconds() - cpu) / elapsed

    async def stop_speech(self) -> None:
        """Stop the speech of all calls, and wait for packets in flight."""
        for caller in self._callers:
            caller.call.stop_speech()
        await trio.sleep(LINGER)

    def hang_up(self) -> None:
        """End all calls, and complete their reports."""
        for caller in self._callers:
            caller.hang_up()


async def run_load(settings: LoadSettings, progress: Progress = lambda line: None) -> LoadReport:
    """Make the calls, and return their results. Raises LoadError when the server cannot be reached."""
    await _check_reachable(settings)
    load = LoadGenerator(settings)
    async with trio.open_nursery() as nursery:
        await nursery.start(load.run)
        await load.add(settings.calls, progress)
        progress(f"{load.connected} of {settings.calls} calls connected; talking for {settings.seconds:g} s")
        seconds, busy = await load.talk(settings.seconds)
        await load.stop_speech()
        load.hang_up()
        nursery.cancel_scope.cancel()
    return LoadReport(load.reports, seconds, busy)


async def _check_reachable(settings: LoadSettings) -> None:
    try:
        async with httpx.AsyncClient(verify=settings.verify_tls) as http:
            await http.get(settings.url)
    except httpx.HTTPError as error:
        raise LoadError(f"{settings.url} cannot be reached ({error}): is `python -m antiphon` running there?") from None


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _error_message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
