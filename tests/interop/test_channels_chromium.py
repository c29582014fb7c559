"""Data channels from Chromium: the talk page in real calls, to a backend that answers events."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Playwright

from support.audio.correlation import known_speech, write_wav
from support.fakes.backend_calls import serving_in_thread
from support.peers.browser import TalkPage, chromium
from support.processes.answering_backend import answer_events
from support.processes.services import Deployment, all_in_one

SIZE = 65_536

LISTEN = """
() => {
  const { dataChannel } = window.antiphon;
  window.received = [];
  dataChannel.addEventListener("message", ({ data }) => window.received.push(JSON.parse(data)));
  return dataChannel.readyState === "open" || new Promise((open) => dataChannel.addEventListener("open", open));
}
"""
SEND = "(events) => events.forEach((event) => window.antiphon.dataChannel.send(JSON.stringify(event)))"
SEND_AND_TIME = """
async (length) => {
  const { dataChannel } = window.antiphon;
  const began = performance.now();
  const answered = new Promise((resolve) => dataChannel.addEventListener("message", resolve, { once: true }));
  dataChannel.send(JSON.stringify({ type: "test", text: "x".repeat(length) }));
  const { data } = await answered;
  return [performance.now() - began, JSON.parse(data).to.text.length];
}
"""
OPEN_OTHERS = """
() => Promise.all([["chat", {}], ["lossy", { ordered: false, maxRetransmits: 0 }]].map(([label, options]) =>
  new Promise((resolve) => {
    const channel = window.antiphon.peerConnection.createDataChannel(label, options);
    channel.addEventListener("open", () => {
      channel.send('{"type":"unheard"}');
      channel.send(new Uint8Array(1000));
      resolve();
    });
  })))
"""
REOPEN = """
() => new Promise((resolve) => {
  const { dataChannel, peerConnection } = window.antiphon;
  dataChannel.addEventListener("close", () => {
    const another = peerConnection.createDataChannel("oai-events");
    another.addEventListener("message", ({ data }) => resolve(JSON.parse(data)));
    another.addEventListener("open", () => another.send('{"type":"again"}'));
  });
  dataChannel.close();
})
"""
IGNORED = """
async (count) => {
  const answer = await fetch(`/v1/realtime/calls/${window.antiphon.callId}/stats`);
  return (await answer.json()).statistics.channels.ignored === count;
}
"""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with serving_in_thread(answer_events) as url, all_in_one(backend=f"test={url}") as deployment:
        yield deployment


@pytest.fixture(scope="module")
def new_tab(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], TalkPage]]:
    microphone: Path = write_wav(tmp_path_factory.mktemp("microphone") / "speech.wav", known_speech())
    with chromium(playwright, microphone) as new_tab:
        yield new_tab


@pytest.fixture
def tab(deployment: Deployment, new_tab: Callable[[], TalkPage]) -> Iterator[TalkPage]:
    """Return the page in a call whose channel is open."""
    tab = new_tab()
    tab.open(deployment.url)
    tab.talk()
    tab.page.evaluate(LISTEN)
    yield tab
    tab.page.close()


def received(tab: TalkPage, count: int) -> list[dict[str, Any]]:
    """Wait for `count` events, and return them."""
    tab.page.wait_for_function("(count) => window.received.length >= count", arg=count)
    events: list[dict[str, Any]] = tab.page.evaluate("() => window.received")
    return events


def test_events_pass_in_both_directions_and_the_page_shows_them(tab: TalkPage) -> None:
    events = [{"type": "test", "number": number, "text": "ä€😀"} for number in range(100)]
    tab.page.evaluate(SEND, events)
    assert received(tab, 100) == [{"type": "answer", "to": event} for event in events]
    tab.page.click("#events summary")
    assert tab.page.locator("#event-log li").count() == 50
    assert '"number":99' in tab.text("#event-log li:last-child")


def test_messages_of_64_kib_pass_in_both_directions(tab: TalkPage) -> None:
    milliseconds, length = tab.page.evaluate(SEND_AND_TIME, SIZE)
    print(f"\nChromium: 64 KiB and back in {milliseconds:.0f} ms", end="")
    assert length == SIZE
    assert milliseconds < 2000


def test_messages_on_other_channels_are_ignored(tab: TalkPage) -> None:
    tab.page.evaluate(OPEN_OTHERS)
    tab.page.evaluate(SEND, [{"type": "test"}])
    assert [event["type"] for event in received(tab, 1)] == ["answer"]
    tab.page.wait_for_function(IGNORED, arg=4)


def test_a_malformed_event_gets_an_error(tab: TalkPage) -> None:
    tab.page.evaluate(
        "() => { for (const message of ['[]', new Uint8Array(3)]) window.antiphon.dataChannel.send(message) }"
    )
    assert [event["error"]["code"] for event in received(tab, 2)] == ["invalid_event", "invalid_event"]
    assert tab.state == "connected"


def test_a_channel_is_closed_and_another_opened(tab: TalkPage) -> None:
    assert tab.page.evaluate(REOPEN) == {"type": "answer", "to": {"type": "again"}}
    assert tab.state == "connected"


def test_the_last_event_arrives_before_the_end_of_the_call(tab: TalkPage) -> None:
    tab.page.evaluate(SEND, [{"type": "hang_up", "text": "x" * SIZE}])
    tab.wait_state("ended")
    assert [event["to"]["type"] for event in received(tab, 1)] == ["hang_up"]
    assert not tab.page.is_visible("#problem")


def test_events_continue_after_an_ice_restart(tab: TalkPage) -> None:
    tab.page.evaluate("() => window.antiphon.restartIce()")
    tab.page.evaluate(SEND, [{"type": "test", "text": "x" * SIZE}])
    assert len(received(tab, 1)[0]["to"]["text"]) == SIZE
