"""Signed messages: the serializer ``auth``. ``app.setup_security()`` makes them what is sent and all that is accepted.

A message carries the signature of its body and the name of who signed it; receivers look for the certificate of that name in a
folder. The format is Celery's, so genuine workers and ours read each other's. Over: cryptography, which has to be installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kombu.serialization import disable_insecure_serializers, registry

from compat_celery.exceptions import ImproperlyConfigured

try:
    from compat_celery.security.serialization import register_auth
except ImportError as error:
    raise ImproperlyConfigured("Signed messages need the package cryptography: pip install cryptography") from error

__all__ = ("disable_untrusted_serializers", "register_auth", "setup_security")


def disable_untrusted_serializers(whitelist: Any = None) -> None:
    """Accept nothing in this process but these serializers."""
    disable_insecure_serializers(allowed=whitelist)


def setup_security(
    allowed_serializers: Any = None,
    key: str | None = None,
    key_password: Any = None,
    cert: str | None = None,
    store: str | None = None,
    digest: str | None = None,
    serializer: str = "json",
    app: Any = None,
) -> None:
    """Sign what this process sends, and accept only what is signed. Files default to the settings ``security_…``.

    :param key: file with the private key (PEM, RSA). :param cert: file with its certificate.
    :param store: folder, or pattern, of the certificates that are trusted.
    :param serializer: of what is signed.
    :raises ImproperlyConfigured: a file is not named, or the settings would still send or accept other messages.
    """
    if app is None:
        from compat_celery import current_app  # noqa: PLC0415 - only without an app

        app = current_app._get_current_object()
    disable_untrusted_serializers(allowed_serializers)
    conf = app.conf
    if conf.task_serializer != "auth" or list(conf.accept_content) != ["auth"]:
        raise ImproperlyConfigured(
            "Signed messages need task_serializer = 'auth' and accept_content = ['auth']: there is no use in signing what is not "
            "verified"
        )
    files = {
        "security_key": key or conf.security_key,
        "security_certificate": cert or conf.security_certificate,
        "security_cert_store": store or conf.security_cert_store,
    }
    missing = [name for name, value in files.items() if not value]
    if missing:
        raise ImproperlyConfigured(f"Signed messages need the settings {', '.join(missing)}, too")
    register_auth(
        Path(files["security_key"]).read_text(),
        key_password or conf.security_key_password,
        Path(files["security_certificate"]).read_text(),
        files["security_cert_store"],
        digest or conf.security_digest,
        serializer,
    )
    registry._set_default_serializer("auth")
