"""The embedded echo backend returns a turn once the caller pauses."""

from support.audio.correlation import Samples, measure
from support.peers.aiortc_peer import call_in_thread
from support.processes.services import all_in_one


def test_a_turn_comes_back_after_the_pause(turns: Samples, turn_seconds: float) -> None:
    with all_in_one(backend="echo") as deployment:
        recording = call_in_thread(deployment.url, turns, 1.5 * turn_seconds, "http")
    likeness = measure(recording.received, recording.sent, turns)
    print(f"\necho, aiortc: {likeness}", end="")
    assert likeness.median > 0.7
    assert turn_seconds < likeness.delay < turn_seconds + 1.5
