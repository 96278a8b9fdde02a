"""The file of tenants: what it says, what is wrong with it, and what of it may be shown."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from stepstream_server.access import ANONYMOUS, Access, AccessFile, Principals, Role, Tenant, hash_token, limits, make_token
from stepstream_server.errors import AccessError
from support.planted import found, plant_text

FILE = """
[tenants.acme]
sessions = 10
rollouts = 0
streams = 2
steps_per_second = 1.5
shared = true
[[tenants.acme.tokens]]
sha256 = "{hash}"
name = "the pump"
[[tenants.acme.certificates]]
subject = "admin.acme"
role = "admin"
[[tenants.acme.certificates]]
san = "spiffe://acme/caller"
[tenants."x.Y_z-9"]
"""


@pytest.fixture
def token() -> str:
    """A token that may be found nowhere."""
    return plant_text(make_token())


def read(tmp_path: Path, text: str) -> Access:
    """Reads a file of this text."""
    path = tmp_path / "tenants.toml"
    path.write_text(text)
    return AccessFile(path).read()


def test_it_says_who_may_call_and_what_they_may_have(tmp_path: Path, token: str) -> None:
    """By token, common name or alternative name; of nobody else."""
    access = read(tmp_path, FILE.format(hash=hash_token(token)))
    acme, other = access.tenants.values()
    assert (acme.sessions, acme.rollouts, acme.streams, acme.steps_per_second) == (10, 0, 2, 1.5)
    assert other == Tenant()
    assert limits(access, "sessions") == {"acme": 10}
    assert limits(None, "sessions") == {}
    principals = Principals(access)
    found = [
        principals.of_token(token),
        principals.of_certificate(["nobody", "admin.acme"], ["spiffe://acme/caller"]),
        principals.of_certificate(["nobody"], ["*.acme", "spiffe://acme/caller"]),
    ]
    assert [(each.tenant, each.role, each.shared, each.name) for each in found if each] == [
        ("acme", Role.CALLER, True, "the pump"),
        ("acme", Role.ADMIN, True, ""),
        ("acme", Role.CALLER, True, ""),
    ]
    nobody = [principals.of_token(each) for each in ("", token + " ", hash_token(token), f"sha256 {hash_token(token)}", "\udcff")]
    nobody += [principals.of_certificate(*each) for each in (([], []), (["spiffe://acme/caller"], ["admin.acme"]))]
    assert nobody == [None] * 7
    assert ANONYMOUS not in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tenants.a]\nsessions = -1", "tenants.a.sessions: Input should be greater than or equal to 0"),
        ("[tenants.a]\nstreams = 1.5", "tenants.a.streams: Input should be a valid integer, got a number with a fractional part"),
        ("[tenants.a]\nsteps_per_second = 0", "tenants.a.steps_per_second: Input should be greater than 0"),
        ("[tenants.a]\nsteps_per_second = nan", "tenants.a.steps_per_second: Input should be a finite number"),
        ("[tenants.a]\nlimits = 1", "tenants.a.limits: Extra inputs are not permitted"),
        ("[tenant.a]", "tenant: Extra inputs are not permitted"),
        ("[[tenants.a.tokens]]", "tenants.a.tokens.0.sha256: Field required"),
        ("[[tenants.a.certificates]]", "tenants.a.certificates.0: expected either subject or san"),
        ("[[tenants.a.certificates]]\nsan = 'x'\nsubject = 'y'", "tenants.a.certificates.0: expected either subject or san"),
        ("[tenants.'a/b']", "tenants: expected names of 1 to 64 characters of A-Z a-z 0-9 . _ -, got 'a/b'"),
        ("[tenants.'']", "tenants: expected names of 1 to 64 characters of A-Z a-z 0-9 . _ -, got ''"),
        ('[tenants."a\\n"]', "tenants: expected names of 1 to 64 characters of A-Z a-z 0-9 . _ -, got 'a\\n'"),
        ("[[tenants.a.tokens]]\nsha256='{hash}'\nrole='root'", "tenants.a.tokens.0.role: Input should be 'caller' or 'admin'"),
        (
            "[[tenants.a.tokens]]\nsha256 = '{token}'",
            "tenants.a.tokens.0.sha256: expected the SHA-256 of a token as 64 hexadecimal digits, "
            "as `stepstream-server token` prints it",
        ),
        ("[[tenants.a.tokens]]\ntoken = '{token}'\nsha256='{hash}'", "tenants.a.tokens.0.token: Extra inputs are not permitted"),
        ("[tenants]\na = '{token}'", "tenants.a: Input should be a valid dictionary or instance of Tenant"),
        (
            "[[tenants.a.certificates]]\nsubject='c'\n[[tenants.b.certificates]]\nsubject='c'",
            "tenants: expected each token and certificate once, got subject c 2 times",
        ),
    ],
)
def test_what_is_wrong_with_it_is_named(tmp_path: Path, token: str, text: str, expected: str) -> None:
    """File, entry and field, and no secret that somebody put in the wrong place: neither in words nor in what led to them."""
    with pytest.raises(AccessError) as refused:
        read(tmp_path, text.replace("{token}", token).replace("{hash}", hash_token(token)))
    assert str(refused.value) == f"{tmp_path}/tenants.toml: {expected}"
    assert found("".join(traceback.format_exception(refused.value)).encode()) == []


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    """A line for each."""
    with pytest.raises(AccessError) as refused:
        read(tmp_path, "[tenants.a]\nsessions = -1\nx = 1\n[tenants.b]\nstreams = -1")
    assert [line.rpartition("tenants.toml: ")[2].partition(":")[0] for line in str(refused.value).splitlines()] == [
        "tenants.a.sessions",
        "tenants.a.x",
        "tenants.b.streams",
    ]


@pytest.mark.parametrize("text", ["[tenants", "x = '{token}'\nx = '{token}'", "tokens = '{token}", "a.b = 1\na.b.c = '{token}'"])
def test_what_is_no_toml_is_named(tmp_path: Path, token: str, text: str) -> None:
    """File and line; not what stands there."""
    with pytest.raises(AccessError, match="tenants.toml: expected readable TOML; ") as refused:
        read(tmp_path, text.replace("{token}", token))
    assert found(str(refused.value).encode()) == []


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    """No file, a folder, and bytes that are no text."""
    (tmp_path / "tenants.toml").write_bytes(b"\xff")
    for path in (tmp_path / "tenants.toml", tmp_path / "nothing", tmp_path):
        with pytest.raises(AccessError, match=f"^{path}: expected readable TOML; "):
            AccessFile(path).read()


def test_the_same_token_twice_is_refused(tmp_path: Path, token: str) -> None:
    """Of two tenants, or of one: it would be anybody's guess who calls."""
    entry = f"[[tenants.%s.tokens]]\nsha256 = '{hash_token(token)}'\n"
    for other in "ab":
        with pytest.raises(AccessError, match="tenants: expected each token and certificate once, got sha256 .* 2 times"):
            read(tmp_path, entry % "a" + entry % other)


def test_nothing_shows_a_token(token: str) -> None:
    """Neither who was found by one, nor all of them."""
    access = Access.model_validate({"tenants": {"a": {"tokens": [{"sha256": hash_token(token)}]}}})
    principals = Principals(access)
    shown = repr((access, principals, vars(principals), principals.of_token(token))) + access.model_dump_json()
    assert found(shown.encode()) == []


def test_a_change_is_seen_once(tmp_path: Path) -> None:
    """Written to, replaced, gone, and there again; also where a link points to another file, as Kubernetes does it."""
    path, first, second = tmp_path / "tenants.toml", tmp_path / "first", tmp_path / "second"
    first.write_text("[tenants.a]")
    second.write_text("[tenants.b]")
    path.symlink_to(first)
    file = AccessFile(path)
    assert not file.changed()
    changes: list[Callable[[], object]] = [
        lambda: (tmp_path / "link").symlink_to(second),
        lambda: (tmp_path / "link").replace(path),
        lambda: second.write_text("[tenants.bc]"),
        path.unlink,
        lambda: path.write_text("[tenants.d]"),
    ]
    seen = []
    for change in changes:
        change()
        seen += [file.changed(), file.changed(), file.changed()]
    assert seen == [False] * 3 + [False, True, False] * 4
    assert file.read().tenants.keys() == {"d"}


def test_a_file_that_is_being_written_to_has_not_changed_yet(tmp_path: Path) -> None:
    """It is empty when an editor begins, and then has the first tenants: everybody else would be refused."""
    path = tmp_path / "tenants.toml"
    path.write_text("[tenants.a]\n[tenants.b]\n")
    file = AccessFile(path)
    for half in ("", "[tenants.a]\n"):
        path.write_text(half)
        assert not file.changed()
    path.write_text("[tenants.a]\n[tenants.b]\n[tenants.c]\n")
    assert [file.changed(), file.changed(), file.changed()] == [False, True, False]
