"""Certificates that a test makes for a server of its own."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deployments.certificate import Certificate

DAY = datetime.timedelta(days=1)


def make_certificate(directory: Path, name: str = "server", passphrase: bytes | None = None) -> Certificate:
    """For localhost and 127.0.0.1; it is its own authority. The key is this user's only."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # Of several authorities of one name, OpenSSL asks the first: no two of ours have the same.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {serial % 10**9}")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), serial)
        .not_valid_before(now - DAY)
        .not_valid_after(now + DAY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(directory / f"{name}.crt", directory / f"{name}.key")
    made.chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    how = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    made.key.write_bytes(key.private_bytes(*form, how))
    made.key.chmod(0o600)
    return made


def renew(certificate: Certificate, by: Certificate) -> None:
    """One file after the other is replaced, as certbot and Kubernetes' volumes do it."""
    for old, new in ((certificate.chain, by.chain), (certificate.key, by.key)):
        temporary = old.with_suffix(".new")
        temporary.write_bytes(new.read_bytes())
        temporary.chmod(0o600)
        os.replace(temporary, old)


def trusting(certificate: Certificate) -> ssl.SSLContext:
    """A client that knows this certificate, and no other."""
    return ssl.create_default_context(cafile=str(certificate.chain))
