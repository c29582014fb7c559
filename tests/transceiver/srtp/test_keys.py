from antiphon_transceiver.srtp.keys import Keys


def test_the_text_form_of_keys_shows_neither_key_nor_salt() -> None:
    keys = Keys(b"the secret key", b"the secret salt")
    for text in (repr(keys), str(keys), f"{keys}", f"{(keys, keys)}", f"{[keys]!r}"):
        assert "secret" not in text
