"""Signed messages."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from kombu.serialization import registry

from compat_celery import Celery
from compat_celery.contrib.embedded import embedded_worker
from compat_celery.exceptions import ImproperlyConfigured, SecurityError
from compat_celery.security import setup_security
from compat_celery.security.certificate import Certificate, FSCertStore
from compat_celery.security.key import PrivateKey
from compat_celery.security.serialization import SecureSerializer

PASSWORD = b"secret"


class Identity:
    """A key and its certificate, as files."""

    def __init__(self, folder: Path, name: str, *, days: float = 1) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=days))
            .sign(key, hashes.SHA256())
        )
        self.key, self.cert = folder / f"{name}.key", folder / "trusted" / f"{name}.pem"
        self.cert.parent.mkdir(exist_ok=True)
        encryption = serialization.BestAvailableEncryption(PASSWORD)
        form = serialization.PrivateFormat.PKCS8
        self.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
        self.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def serializer(self, store: Path) -> SecureSerializer:
        key = PrivateKey(self.key.read_text(), PASSWORD)
        return SecureSerializer(key, Certificate(self.cert.read_text()), FSCertStore(str(store)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def alice(folder: Path) -> Identity:
    return Identity(folder, "alice")


@pytest.fixture
def kombu_registry() -> Iterator[None]:
    """Kombu's registry of serializers, put back as it was."""
    before = {name: getattr(registry, name).copy() for name in ("_encoders", "_decoders", "name_to_type", "type_to_name")}
    default = registry._default_encode, registry._default_content_type, registry._default_content_encoding
    disabled = set(registry._disabled_content_types)
    yield
    for name, value in before.items():
        setattr(registry, name, value)
    registry._default_encode, registry._default_content_type, registry._default_content_encoding = default
    registry._disabled_content_types.clear()
    registry._disabled_content_types.update(disabled)


def test_what_was_signed_is_read(alice: Identity) -> None:
    serializer = alice.serializer(alice.cert.parent)
    assert serializer.deserialize(serializer.serialize({"x": [1, "two"]})) == {"x": [1, "two"]}


@pytest.mark.parametrize("position", [0, 40, 300, -2])
def test_a_changed_message_is_refused(alice: Identity, position: int) -> None:
    serializer = alice.serializer(alice.cert.parent)
    message = bytearray(str(serializer.serialize({"x": 1})).encode())
    message[position] = ord("A") if message[position] != ord("A") else ord("B")
    with pytest.raises(SecurityError):
        serializer.deserialize(bytes(message))


def test_what_a_stranger_signed_is_refused(alice: Identity, folder: Path, tmp_path: Path) -> None:
    stranger = Identity(tmp_path, "stranger")
    message = stranger.serializer(tmp_path / "trusted").serialize({"x": 1})
    with pytest.raises(SecurityError, match="Unknown certificate"):
        alice.serializer(alice.cert.parent).deserialize(message)


def test_a_certificate_whose_time_is_over_is_no_good(tmp_path: Path) -> None:
    old = Identity(tmp_path, "old", days=-1)
    with pytest.raises(SecurityError, match="Expired"):
        FSCertStore(str(old.cert.parent))
    with pytest.raises(SecurityError, match="Expired"):
        Certificate(old.cert.read_text()).verify(b"x", b"y", hashes.SHA256())


@pytest.mark.parametrize(("make", "text"), [(PrivateKey, "no key"), (Certificate, "no certificate")])
def test_what_is_no_key_or_certificate_is_named(make: Any, text: str) -> None:
    with pytest.raises(SecurityError, match="Invalid"):
        make(text)


def test_half_a_configuration_is_refused(kombu_registry: None) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_serializer = 'auth'"):
        setup_security(app=Celery("plain", set_as_current=False))
    app = Celery("half", set_as_current=False, task_serializer="auth", accept_content=["auth"])
    with pytest.raises(ImproperlyConfigured, match="security_key, security_certificate, security_cert_store"):
        app.setup_security()


def test_a_worker_runs_signed_calls_and_no_others(alice: Identity, kombu_registry: None, tmp_path: Path) -> None:
    app = Celery(
        "signed",
        broker=f"memory://{tmp_path.name}",
        backend=f"memory://{tmp_path.name}",
        set_as_current=False,
        security_key=str(alice.key),
        security_key_password=PASSWORD,
        security_certificate=str(alice.cert),
        security_cert_store=str(alice.cert.parent),
        task_serializer="auth",
        result_serializer="json",
        accept_content=["auth"],
        result_accept_content=["json"],
    )
    ran: list[int] = []

    @app.task(shared=False)
    def task(number: int) -> None:
        ran.append(number)

    app.setup_security()
    with embedded_worker(app):
        task.apply_async((1,), serializer="json")
        task.delay(2).get(timeout=60)
    assert ran == [2]
    app.close()
