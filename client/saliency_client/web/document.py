"""The HTML document of every page: a policy, one stylesheet, plain scripts, and data that is never run."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

STYLE = "style.css"
VIEWER = "viewer.js"
"""What every page shares; a page's own script comes after it."""

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
}
"""The Content-Security-Policy of a page and the files beside it; from disk, too, these are 'self'."""
GENERATOR = "saliency-client"
"""What every page says that it was made by."""

_OF_DATA = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def static(name: str) -> bytes:
    """The content of a stylesheet or script of this package, by its name.

    Raises:
        FileNotFoundError: there is none of that name.
    """
    return (files("saliency_client.web") / "static" / name).read_bytes()


def policy(directives: Mapping[str, str]) -> str:
    """A Content-Security-Policy as text.

    Example:
        >>> from saliency_client.web.document import policy
        >>> policy({"default-src": "'none'", "img-src": "'self' data:"})
        "default-src 'none'; img-src 'self' data:"
    """
    return "; ".join(f"{name} {sources}" for name, sources in directives.items())


def document(
    *,
    title: str,
    scripts: Sequence[str],
    data: Mapping[str, Any],
    directives: Mapping[str, str] | None = POLICY,
) -> str:
    """A page whose stylesheet and scripts are files beside it.

    Args:
        title: of the window; any text.
        scripts: files of `static`, in the order in which they run.
        data: what the scripts read from the block `page-data`; text in it may be anything.
        directives: of the policy; None where a server sends it as a header.
    """
    return "".join(
        [
            _head(title, directives),
            f'<link rel="stylesheet" href="{STYLE}">\n',
            *(f'<script src="{escape(name)}" defer></script>\n' for name in scripts),
            _BODY,
            data_block("page-data", data),
            _END,
        ]
    )


def single_document(
    *, title: str, scripts: Sequence[str], data: Mapping[str, Any], pictures: Iterable[tuple[str, bytes]]
) -> Iterable[str]:
    """A page that holds all it needs, piece by piece, so that no more than one picture is in memory.

    Its policy allows its own stylesheet and scripts by their hashes, and nothing else.

    Args:
        title: as for `document`.
        scripts: as for `document`.
        data: as for `document`.
        pictures: by the names that `data` has for them.
    """
    style, codes = static(STYLE), [static(name) for name in scripts]
    directives = {
        **POLICY,
        "script-src": " ".join(map(_digest, codes)),
        "style-src": _digest(style),
        "img-src": "data:",
    }
    yield _head(title, directives)
    yield f"<style>{style.decode()}</style>\n"
    yield _BODY
    yield data_block("page-data", data)
    for name, content in pictures:
        encoded = base64.b64encode(content).decode()
        yield f'<script type="text/plain" id="{escape(name)}">{encoded}</script>\n'
    for code in codes:
        yield f"<script>{code.decode()}</script>\n"
    yield _END


def data_block(name: str, data: Any) -> str:
    """JSON in a script element that no browser runs; nothing in it can end the element.

    NaN becomes null, and infinity the text "inf", which the scripts read as a number.
    """
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # A lone surrogate, as in the name of a file that is no UTF-8, cannot be written.
    text = text.encode("utf-8", "replace").decode().translate(_OF_DATA)
    return f'<script type="application/json" id="{escape(name)}">{text}</script>\n'


_BODY = (
    '</head>\n<body>\n<div id="page"></div>\n'
    "<noscript><p>This page is drawn by its own script, and this browser runs none.</p></noscript>\n"
)
_END = "</body>\n</html>\n"


def _head(title: str, directives: Mapping[str, str] | None) -> str:
    held = escape(policy(directives or {}))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        + (f'<meta http-equiv="Content-Security-Policy" content="{held}">\n' if directives else "")
        + '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="{GENERATOR}">\n'
        f"<title>{escape(_writable(title))}</title>\n"
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _digest(content: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
