"""Rates and bursts of token buckets, and the bucket of each name."""

from antiphon_relay.limits import Bucket, BucketArray


def test_a_bucket_admits_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(rate=10, burst=5)
    assert [bucket.allow(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.allow(100.0 + tick / 20) for tick in range(1, 9)] == [False, True] * 4
    assert [bucket.allow(200.0) for _ in range(6)] == [True] * 5 + [False]


def test_names_have_separate_buckets_unless_their_keyed_hashes_collide() -> None:
    names = [b"%d" % number for number in range(100)]
    buckets = BucketArray(1 << 16, rate=1, burst=1, key=b"secret")
    assert sum(buckets.allow(name, 1.0) for name in names) >= 99
    assert not any(buckets.allow(name, 1.5) for name in names)

    def shared(key: bytes) -> list[bool]:
        few = BucketArray(16, rate=1, burst=1, key=key)
        return [few.allow(name, 1.0) for name in names]

    assert sum(shared(b"one")) <= 16
    assert shared(b"one") != shared(b"two")
