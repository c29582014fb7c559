import base64

import pytest

from antiphon_common.keys import Key, KeyRing, KeyRingError

SECRET = bytes(range(32))
LINE = f"0:{base64.b64encode(SECRET).decode()}"


def ring(*keys: Key) -> KeyRing:
    return KeyRing(keys)


@pytest.mark.parametrize(
    ("purpose", "expected"),
    [
        ("route", "e11c4a74ab4cbfcb3b2c3dd387da523f93c6d69704c0b4e5967c3b516de81f4a"),
        ("link", "155f90b94de65fe1b913f2bd512607b63d0b97f47c8913021c5ed71b499b2318"),
        ("control", "40a7668e58e2997c4955e255c6460ea930fd72079f3bbbbd69c40bbd563a7460"),
    ],
)
def test_a_key_is_derived_for_each_purpose(purpose: str, expected: str) -> None:
    keys = getattr(KeyRing.parse(LINE), purpose)
    assert keys.minting(0) == (0, bytes.fromhex(expected))


def test_format_inverts_parse() -> None:
    text = f"{LINE}\n1:{LINE[2:]}:10:20:30\n2:{LINE[2:]}::20\n63:{LINE[2:]}:::30\n"
    assert KeyRing.parse(text).format() == text
    assert [key.id for key in KeyRing.parse(f"# kept by hand\n\n{text}").keys] == [0, 1, 2, 63]


def test_the_newest_key_mints_and_both_keys_are_accepted_after_a_rotation() -> None:
    old = Key(0, SECRET, retire_after=200)
    new = Key(1, SECRET[::-1], accept_from=50, mint_from=100)
    link = ring(old, new).link
    assert [link.minting(now)[0] for now in (0, 99, 100, 300)] == [0, 0, 1, 1]
    assert [link.accepting(0, now) is not None for now in (0, 200, 201)] == [True, True, False]
    assert [link.accepting(1, now) is not None for now in (49, 50, 300)] == [False, True, True]
    assert link.accepting(2, 100) is None


def test_the_first_key_is_used_when_none_has_begun() -> None:
    first, second = Key(1, SECRET, accept_from=50, mint_from=100), Key(0, SECRET[::-1], accept_from=150)
    keys = ring(second, first)
    assert [keys.is_early(now) for now in (99, 100)] == [True, False]
    assert keys.route.minting(0) == keys.route.minting(100) == (1, keys.route.accepting(1, 0))
    assert keys.route.accepting(0, 0) is None


def test_the_last_key_stays_in_use_when_all_have_retired() -> None:
    old, new = Key(0, SECRET, retire_after=100), Key(1, SECRET[::-1], mint_from=50, retire_after=200)
    keys = ring(old, new)
    assert [keys.is_overdue(now) for now in (0, 200, 201)] == [False, False, True]
    assert keys.route.minting(1000)[0] == 1
    assert (keys.route.accepting(0, 1000), keys.route.accepting(1, 1000)) == (None, keys.route.minting(1000)[1])


def test_a_rotation_adds_a_key_accepted_before_its_use_and_retires_the_others() -> None:
    once = ring(Key(63, SECRET)).rotate(SECRET[::-1], 1000, mint_after=60, retire_after=3600)
    assert once.keys == (Key(63, SECRET, retire_after=4660), Key(0, SECRET[::-1], mint_from=1060))
    assert [once.link.minting(now)[0] for now in (1000, 1059, 1060)] == [63, 63, 0]
    assert once.link.accepting(0, 1000) is not None
    twice = once.rotate(SECRET, 5000, mint_after=60, retire_after=3600)
    assert [(key.id, key.retire_after) for key in twice.keys] == [(0, 8660), (1, None)]
    with pytest.raises(KeyRingError, match="64"):
        ring(*[Key(number, SECRET) for number in range(64)]).rotate(SECRET, 0, mint_after=0, retire_after=0)


@pytest.mark.parametrize("later", [1, 100, 3599])
def test_another_rotation_does_not_prolong_a_key_that_retires(later: int) -> None:
    once = ring(Key(1, SECRET), Key(2, SECRET, retire_after=1500)).rotate(
        SECRET[::-1], 1000, mint_after=60, retire_after=3600
    )
    assert [key.retire_after for key in once.keys] == [4660, 1500, None]
    twice = once.rotate(SECRET, 1000 + later, mint_after=60, retire_after=3600)
    kept = [key for key in twice.keys if key.id in (1, 2)]
    assert [key.retire_after for key in kept] == [4660, 1500][: len(kept)]
    assert twice.link.accepting(1, 4660) is not None
    assert twice.link.accepting(1, 4661) is None


def test_replaced_keys_are_visible_through_a_key_ring_and_its_parts() -> None:
    held, other = ring(Key(0, SECRET)), ring(Key(1, SECRET[::-1]))
    route = held.route
    held.replace(other)
    assert (held.keys, route.minting(0), route.accepting(0, 0)) == (other.keys, other.route.minting(0), None)


def test_generated_keys_are_valid_at_once() -> None:
    made = KeyRing.generate(lambda size: SECRET[:size])
    assert made.format() == f"{LINE}\n"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "keygen"),
        ("64:AAAA", "0 to 63"),
        ("no line at all", "id:base64"),
        (f"{LINE}:1:2:3:4", "id:base64"),
        ("0:not base64!", "not base64"),
        ("0:AAAA", "at least 16"),
        (f"{LINE}:soon", "Unix seconds"),
        (f"{LINE}\n{LINE}", "same id"),
    ],
)
def test_an_invalid_secret_file_is_reported_with_its_reason(text: str, hint: str) -> None:
    with pytest.raises(KeyRingError, match=hint):
        KeyRing.parse(text)


def test_no_representation_contains_a_secret() -> None:
    keys = KeyRing.parse(LINE)
    shown = " ".join(repr(thing) for thing in (keys, keys.keys[0], keys.route, keys.link))
    shown += str(keys) + str(keys.keys[0])
    for secret in (SECRET, keys.route.minting(0)[1]):
        assert repr(secret) not in shown
        assert secret.hex() not in shown
        assert base64.b64encode(secret).decode() not in shown


def test_keys_that_were_replaced_are_used_for_every_purpose() -> None:
    held = KeyRing([Key(0, SECRET)])
    purposes = held.route, held.link, held.control
    other = KeyRing([Key(5, SECRET[::-1])])
    held.replace(other)
    assert [purpose.minting(0) for purpose in purposes] == [
        purpose.minting(0) for purpose in (other.route, other.link, other.control)
    ]
    assert not any(purpose.accepting(0, 0) for purpose in purposes)
