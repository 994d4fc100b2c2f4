"""Who may ask the live page: Host and Origin, and what other sites' pages can and cannot send."""

from __future__ import annotations

import pytest

from saliency_client.web.live.admission import Address, refusal, response_headers

HERE = Address("127.0.0.1", 8600)
OWN = ("x-saliency-page", "1")


def status(
    method: str, *headers: tuple[str, str], path: str = "/api/explain", address: Address = HERE
) -> int:
    refused = refusal(method, path, headers, address)
    return 200 if refused is None else refused.status


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "LOCALHOST:8600", "[::1]:8600"])
def test_names_of_this_machine_are_taken(host):
    assert status("GET", ("host", host)) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:8600",  # rebound to 127.0.0.1
        "127.0.0.1:8601",
        "127.0.0.1",
        "localhost",
        "localhost.:8600",
        "localhost.evil.example:8600",
        "127.0.0.1.nip.io:8600",
        "127.1:8600",
        "0.0.0.0:8600",
        "user@localhost:8600",
        "localhost:8600:8600",
        "localhost:8600 ",
        "localhost:08600x",
        "[::1:8600",
        "",
    ],
)
def test_another_name_is_not(host):
    expected = 200 if host.strip() == "localhost:8600" else 421
    assert status("GET", ("host", host)) == expected


def test_a_request_without_a_host_or_with_two_is_refused():
    assert status("GET") == 421
    assert status("GET", ("host", "127.0.0.1:8600"), ("host", "evil.example")) == 421


def test_a_page_of_another_site_cannot_ask():
    host = ("host", "127.0.0.1:8600")
    for origin in (
        "http://evil.example",
        "http://127.0.0.1:3000",
        "https://127.0.0.1:8600",
        "null",
        "http://localhost:8600",
    ):
        assert status("POST", host, OWN, ("origin", origin)) == 403, origin
        assert status("GET", host, ("origin", origin)) == 403, origin
    assert status("POST", host, OWN, ("origin", "http://127.0.0.1:8600")) == 200
    for site in ("cross-site", "same-site"):
        assert status("POST", host, OWN, ("sec-fetch-site", site)) == 403
        assert status("GET", host, ("sec-fetch-site", site)) == 403
    assert status("GET", host, ("sec-fetch-site", "same-origin")) == 200


def test_what_a_form_or_an_image_of_another_site_can_send_lacks_the_header():
    host = ("host", "127.0.0.1:8600")
    assert status("POST", host, ("content-type", "text/plain")) == 403
    assert status("DELETE", host) == 403
    assert status("POST", host, OWN) == 200


def test_a_link_of_another_site_may_lead_to_the_page_and_to_nothing_else():
    link = (("host", "127.0.0.1:8600"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"))
    assert status("GET", *link, path="/") == 200
    assert status("GET", *link, path="/api/state") == 403


def test_where_every_address_is_listened_at_numbers_are_taken_and_names_are_not():
    everywhere = Address("0.0.0.0", 8600)
    assert status("GET", ("host", "192.168.1.7:8600"), address=everywhere) == 200
    assert status("GET", ("host", "localhost:8600"), address=everywhere) == 200
    assert status("GET", ("host", "rebound.example:8600"), address=everywhere) == 421
    named = Address("box.example", 8600)
    assert status("GET", ("host", "box.example:8600"), address=named) == 200
    assert status("GET", ("host", "localhost:8600"), address=named) == 421


@pytest.mark.parametrize(
    ("host", "loopback", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:8600/"),
        ("127.3.2.1", True, "http://127.3.2.1:8600/"),
        ("localhost", True, "http://localhost:8600/"),
        ("::1", True, "http://[::1]:8600/"),
        ("0.0.0.0", False, "http://127.0.0.1:8600/"),
        ("192.168.1.7", False, "http://192.168.1.7:8600/"),
    ],
)
def test_an_address_knows_whether_others_reach_it(host, loopback, url):
    address = Address(host, 8600)
    assert (address.is_loopback, address.url) == (loopback, url)


def test_data_are_not_kept_by_the_browser():
    assert response_headers("x", lasting=False)["cache-control"] == "no-store"
