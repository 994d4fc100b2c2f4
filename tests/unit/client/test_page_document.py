"""The HTML document that pages share: nothing in its data acts, and its policy fits its scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from saliency_client.web.document import POLICY, data_block, document, policy, single_document, static

HOSTILE = "</script><script>alert(1)</script><!--<script>\u2028&lt;\ud800"


class Reader(HTMLParser):
    """The elements of a document with their attributes, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def test_nothing_in_the_data_ends_its_block() -> None:
    block = data_block("page-data", {"name": HOSTILE, HOSTILE: [HOSTILE]})
    assert re.findall(r"[<>&\u2028]", block.partition(">")[2].rpartition("</script>")[0]) == []
    found = json.loads(Reader(block).scripts[0])
    assert found["name"] == HOSTILE.replace("\ud800", "?")
    block.encode()


def test_numbers_that_json_has_not_are_told_apart() -> None:
    block = data_block("x", [float("inf"), float("-inf"), float("nan"), {"deep": [float("inf")]}, 1.5])
    assert json.loads(Reader(block).scripts[0]) == ["inf", "-inf", None, {"deep": ["inf"]}, 1.5]


def test_a_page_has_files_alone_and_says_so_in_its_policy() -> None:
    page = Reader(document(title=HOSTILE, scripts=["viewer.js", "gallery.js"], data={"title": HOSTILE}))
    assert [one.get("src") for tag, one in page.elements if tag == "script"] == [
        "viewer.js",
        "gallery.js",
        None,
    ]
    metas = [one for tag, one in page.elements if tag == "meta"]
    (held,) = [one["content"] for one in metas if one.get("http-equiv") == "Content-Security-Policy"]
    assert held == policy(POLICY)
    assert "unsafe" not in held
    assert held.startswith("default-src 'none'")
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)


def test_the_policy_of_one_file_allows_its_own_scripts_by_their_hashes_and_no_other() -> None:
    text = "".join(
        single_document(
            title="x", scripts=["viewer.js"], data={"name": HOSTILE}, pictures=[('a"><b.png', b"\x89PNG")]
        )
    )
    page = Reader(text)
    (held,) = [one["content"] or "" for tag, one in page.elements if tag == "meta" and "http-equiv" in one]
    run = [
        script
        for script, one in zip(
            page.scripts, [one for tag, one in page.elements if tag == "script"], strict=True
        )
        if "type" not in one
    ]
    assert run == [static("viewer.js").decode()]
    for content in (run[0].encode(), static("style.css")):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'" in held
    assert "'self'" not in held
    pictures = {
        one["id"]: one for tag, one in page.elements if tag == "script" and one.get("type") == "text/plain"
    }
    assert list(pictures) == ['a"><b.png']


@pytest.mark.parametrize("name", ["viewer.js", "gallery.js"])
def test_scripts_make_no_markup_of_text_and_ask_no_network(name: str) -> None:
    code = static(name).decode()
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
    ):
        assert word not in code
    assert not re.search(r"https?://(?!www\.w3\.org/)", code)
    assert "</script" not in code.lower()
