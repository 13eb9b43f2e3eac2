"""Ciphers of TLS 1.2, whoever speaks it."""

CIPHERS = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)
"""As Mozilla's intermediate profile has them (https://wiki.mozilla.org/Security/Server_Side_TLS)."""
