from random import Random

from antiphon_transceiver.srtp.evicted import EvictedSources, Reached


def test_an_added_source_is_found_until_it_is_discarded() -> None:
    seed = 5
    print("seed", seed)
    random = Random(seed)
    sources, expected = EvictedSources(), dict[int, Reached]()
    for _ in range(2000):
        ssrc = random.choice([*list(expected)[:20], random.getrandbits(32), 0, 0xFFFFFFFF])
        if ssrc in expected:
            sources.discard(ssrc)
            del expected[ssrc]
        else:
            expected[ssrc] = Reached(random.randrange(-1, 1 << 48), random.randrange(-1, 1 << 31))
            sources.add(ssrc, expected[ssrc])
        sources.discard(random.getrandbits(32))
        assert sources.get(ssrc) == expected.get(ssrc)
    assert len(sources) == len(expected)
    assert all(sources.get(ssrc) == reached for ssrc, reached in expected.items())


def test_the_smallest_and_largest_values_are_stored() -> None:
    sources = EvictedSources()
    for ssrc, reached in ((0, Reached(-1, -1)), (0xFFFFFFFF, Reached((1 << 48) - 1, (1 << 31) - 1))):
        sources.add(ssrc, reached)
        assert sources.get(ssrc) == reached
