"""Addresses of HTTP servers, as a person gives them."""

from urllib.parse import urlsplit

from align.data.messages import shown


def plain_http(url: str) -> str:
    """The address without a last slash. Raises: ValueError, which shows nothing secret."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:  # not shown: it may be a secret
        raise ValueError("must hold no password and no query: name a key_variable for the key")
    plain = url.isascii() and url.isprintable() and " " not in url
    web = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not plain or not web:
        raise ValueError(f"must be like http://127.0.0.1:8000/v1, not {shown(url)}")
    return url.rstrip("/")
