"""The certificate of --tls: whom it names, how long it holds, and what is said where openssl is missing or fails."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from rayhpc.errors import ExitCode, RayhpcError
from rayhpc.host import tls
from rayhpc.model import Certificate


def decoded(made: Certificate, directory: Path) -> dict[str, object]:
    """What Python's own reader makes of a certificate."""
    file = directory / "chain.pem"
    file.write_text(made.chain)
    return ssl._ssl._test_decode_cert(str(file))  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(scope="module")
def made() -> Certificate:
    return tls.certificate(["10.0.0.2", "10.0.0.1", "10.0.0.2", "fd00::5"])


def test_every_address_and_the_loopback_are_named_once(made: Certificate, tmp_path: Path) -> None:
    names = decoded(made, tmp_path)["subjectAltName"]
    assert names == (
        ("DNS", "localhost"), ("IP Address", "10.0.0.1"), ("IP Address", "10.0.0.2"), ("IP Address", "127.0.0.1"),
        ("IP Address", "0:0:0:0:0:0:0:1"), ("IP Address", "FD00:0:0:0:0:0:0:5"),
    )  # fmt: skip


def test_it_holds_on_a_host_whose_clock_is_behind_and_until_any_job_has_ended(
    made: Certificate, tmp_path: Path
) -> None:
    entries = decoded(made, tmp_path)
    begins, ends = (ssl.cert_time_to_seconds(str(entries[name])) for name in ("notBefore", "notAfter"))
    assert begins - time.time() == pytest.approx(-86400, abs=60)
    assert ends - time.time() == pytest.approx(30 * 86400, abs=60)


def test_it_is_its_own_authority_and_the_key_is_its_own(made: Certificate, tmp_path: Path) -> None:
    entries = decoded(made, tmp_path)
    assert entries["issuer"] == entries["subject"]
    (tmp_path / "key.pem").write_text(made.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")  # raises where they do not belong together


def test_each_run_has_another_one(made: Certificate) -> None:
    other = tls.certificate(["10.0.0.1"])
    assert other.key != made.key
    assert other.chain != made.chain


def test_the_key_is_in_no_representation(made: Certificate) -> None:
    assert made.key.splitlines()[1] not in repr(made)


def test_nothing_stays_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tls.certificate(["10.0.0.1"])
    assert list(tmp_path.iterdir()) == []


def test_a_host_without_openssl_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RayhpcError, match="the openssl command cannot be run") as caught:
        tls.certificate(["10.0.0.1"])
    assert caught.value.fault.code == ExitCode.CONFIGURATION
    assert "without --tls" in caught.value.fault.next_step


def test_openssl_s_own_words_are_the_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openssl").write_text("#!/bin/sh\necho 'unknown option -newkey' >&2\nexit 3\n")
    (tmp_path / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RayhpcError, match="openssl req has ended with 3") as caught:
        tls.certificate(["10.0.0.1"])
    assert caught.value.fault.evidence == ("unknown option -newkey",)


def test_a_thousand_hosts_fit() -> None:
    """BoringSSL, which Ray's gRPC brings, takes 100 KB."""
    made = tls.certificate(f"10.{n // 250}.0.{n % 250}" for n in range(4000))
    assert len(made.chain) < 50_000
