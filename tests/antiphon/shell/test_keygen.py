import stat
from pathlib import Path

import pytest

from antiphon.__main__ import main
from antiphon_common.keys import KeyRing


def test_keygen_writes_a_secret_file_readable_only_by_its_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    main(["keygen", str(file)])
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert KeyRing.load(file).link.minting(0)[0] == 0
    assert capsys.readouterr().out == ""


def test_keygen_prints_a_different_secret_each_time_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    main(["keygen"])
    main(["keygen"])
    first, second = (KeyRing.parse(line) for line in capsys.readouterr().out.splitlines())
    assert first.control.minting(0) != second.control.minting(0)


def test_keygen_rotates_a_file_in_place(tmp_path: Path) -> None:
    file, link = tmp_path / "secret", tmp_path / "link"
    main(["keygen", str(file)])
    link.symlink_to(file)
    file.chmod(0o640)
    (first,) = KeyRing.load(file).keys
    main(["keygen", "--rotate", str(link), "--in", "10", "--retire", "100"])
    old, new = KeyRing.load(file).keys
    assert (old.secret, new.id) == (first.secret, 1)
    assert (old.retire_after, new.mint_from) == ((new.mint_from or 0) + 100, new.mint_from)
    assert (stat.S_IMODE(file.stat().st_mode), link.is_symlink()) == (0o640, True)
    assert sorted(tmp_path.iterdir()) == [link, file]


@pytest.mark.parametrize("text", [None, "no secret"])
def test_a_failed_rotation_is_reported_with_its_reason(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SystemExit, match="secret"):
        main(["keygen", "--rotate", str(file)])


@pytest.mark.parametrize(("name", "hint"), [("secret", "there already"), ("no/folder/secret", "No such file")])
def test_a_failed_write_is_reported_with_its_reason(name: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    with pytest.raises(SystemExit, match=hint):
        main(["keygen", str(tmp_path / name)])
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]
