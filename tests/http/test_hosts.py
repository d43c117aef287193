from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilience.core.errors import ConfigurationError
from resilience.http.hosts import HostRule, is_loopback, is_secure


@pytest.mark.parametrize(
    ("rule", "url"),
    [
        ("api.example.com", "https://api.example.com"),
        ("api.example.com", "https://api.example.com/v1?x=https://evil.com#@evil.com"),
        ("api.example.com", "https://api.example.com:8443/v1"),
        ("api.example.com", "HTTPS://API.Example.COM/"),
        ("API.Example.com", "https://api.example.com/"),
        ("api.example.com.", "https://api.example.com/"),
        ("api.example.com", "https://api.example.com./"),
        ("api.example.com", "https://user:pass@api.example.com/"),
        ("api.example.com", "https://api.example.com?x=1"),
        ("api.example.com:8443", "https://api.example.com:8443/"),
        ("api.example.com:443", "https://api.example.com/"),
        ("my_service", "https://my_service/"),
        ("*.example.com", "https://api.example.com/"),
        ("*.example.com", "https://a.b.example.com/"),
        ("*.example.com:8443", "https://a.example.com:8443/"),
        ("10.0.0.1", "https://10.0.0.1/"),
        ("[2001:db8::1]", "https://[2001:db8:0:0::1]/"),
        ("2001:DB8::1", "https://[2001:db8::1]:8443/"),
        ("[2001:db8::1]:8443", "https://[2001:db8::1]:8443/"),
        ("bücher.example", "https://xn--bcher-kva.example/"),
        ("xn--bcher-kva.example", "https://bücher.example/"),
        ("bücher.example", "https://BÜCHER.example/"),
        ("127.0.0.1", "http://127.0.0.1:8000/"),
        ("127.8.9.10", "http://127.8.9.10/"),
        ("localhost", "http://localhost:8000/"),
        ("[::1]", "http://[::1]:8000/"),
    ],
)
def test_a_request_to_a_host_of_the_rule_may_carry_the_credential(rule: str, url: str) -> None:
    assert HostRule.parse(rule).allows(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com/",
        "ftp://api.example.com/",
        "//api.example.com/",
        "api.example.com",
        "",
        "https://",
        "https:///api.example.com/",
        "https://example.com/",
        "https://evil-api.example.com/",
        "https://api.example.com.evil.com/",
        "https://api.example.com@evil.com/",
        "https://api.example.com:443@evil.com/",
        "https://evil.com/api.example.com",
        "https://evil.com?@api.example.com/",
        "https://evil.com#@api.example.com/",
        "https://evil.com\\@api.example.com/",
        "https://api.example.com\\@evil.com/",
        "https:\\\\api.example.com/",
        "https://api.example.com\n@evil.com/",
        "https://api.example.com\t.evil.com/",
        "https://evil.com\t@api.example.com/",
        " https://api.example.com/",
        "https:// api.example.com/",
        "https://api.example.com /",
        "https://api.example.com\x00/",
        "https://api%2Eexample.com/",
        "https://api.example.com%2Eevil.com/",
        "https://api.example.com%40evil.com/",
        "https://api.example.com%00.evil.com/",
        "https://api.example.com../",
        "https://.api.example.com/",
        "https://api..example.com/",
        "https://api.example.com:99999/",
        "https://api.example.com:443:80/",
        "https://api.example.com:٤٤٣/",
        "https://[api.example.com]/",
        "https://[::1]api.example.com/",
        "https://аpi.example.com/",  # a Cyrillic а
        "https://api.example.com／evil.com/",  # a fullwidth solidus
        "https://api.example.com＠evil.com/",
    ],
)
def test_a_url_that_leads_elsewhere_or_nowhere_is_refused(url: str) -> None:
    rule = HostRule.parse("api.example.com")
    assert not rule.allows(url)
    assert not rule.allows(url), "nor the second time"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/",
        "https://evil-example.com/",
        "https://evilexample.com/",
        "https://.example.com/",
        "https://a..example.com/",
        "https://example.com.evil.com/",
        "https://a.example.com.evil.com/",
        "https://evil.com@.example.com/",
        "https://evil.com\\.example.com/",
    ],
)
def test_a_wildcard_covers_hosts_below_it_and_no_other(url: str) -> None:
    assert not HostRule.parse("*.example.com").allows(url)


@pytest.mark.parametrize("dot", ["。", "．", "｡"])
def test_a_unicode_dot_counts_as_the_dot_that_requests_makes_of_it_or_not_at_all(dot: str) -> None:
    import requests

    url = f"https://api{dot}example.com/"
    try:
        prepared = requests.Request("GET", url).prepare().url
    except requests.exceptions.InvalidURL:
        prepared = ""
    leads_there = prepared == "https://api.example.com/"
    assert leads_there or not HostRule.parse("api.example.com").allows(url)
    assert not HostRule.parse("*.example.com").allows(f"https://evil{dot}com/")


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/", "http://127.0.0.1.nip.io/", "http://2130706433/", "http://0177.0.0.1/", "http://127.1/"]
)
def test_plain_http_needs_loopback_by_address(url: str) -> None:
    assert not HostRule.parse(["10.0.0.1", "127.0.0.1.nip.io", "127.0.0.1"]).allows(url)
    assert not is_loopback(url)
    assert not is_secure(url)


def test_insecure_allows_plain_http_to_the_hosts_of_the_rule_alone() -> None:
    rule = HostRule.parse("api.internal")
    assert not rule.allows("http://api.internal/")
    assert rule.allows("http://api.internal/", insecure=True)
    assert not rule.allows("http://api.internal/"), "the verdict is remembered for each by itself"
    assert not rule.allows("http://other.internal/", insecure=True)
    assert not rule.allows("ftp://api.internal/", insecure=True)


def test_a_port_in_the_rule_restricts_it() -> None:
    rule = HostRule.parse("api.example.com:8443")
    assert not rule.allows("https://api.example.com/")
    assert not rule.allows("https://api.example.com:443/")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "*",
        "*.",
        "*.com",
        "*.localhost",
        "*.*.com",
        "a.*.com",
        "**.example.com",
        "*example.com",
        "*.0.0.1",
        "*.127.0.0.1",
        "*.[::1]",
        "https://api.example.com",
        "api.example.com/v1",
        "user@api.example.com",
        "api.example.com ",
        "a.com,b.com",
        "a.com b.com",
        "api.example.com:",
        "api.example.com:0",
        "api.example.com:65536",
        "api.example.com:http",
        "api..example.com",
        ".example.com",
        "-api.example.com",
        "127.1",
        "0x7f.0.0.1",
        "256.0.0.1",
        "[::1",
        "[::g]",
        "fe80::1%eth0",
        "api.example.com\n",
        "a\\b.com",
        "\u2100.example",
        "x" * 64 + ".com",
        None,
        443,
        [],
        [None],
        b"api.example.com",
    ],
)
def test_a_wrong_rule_is_named_with_what_is_allowed(wrong: object) -> None:
    with pytest.raises(ConfigurationError) as caught:
        HostRule.parse(wrong)  # type: ignore[arg-type]
    assert "hosts=" in str(caught.value)
    assert "api.example.com:8443" in str(caught.value)


def test_a_rule_of_several_hosts_gives_those_named_in_full_for_warming() -> None:
    rule = HostRule.parse(h for h in ("A.example.com", "*.b.example", "::1", "c.example:8443", "a.example.com."))
    assert rule.exact_hosts == ("a.example.com", "[::1]", "c.example:8443")
    assert str(rule) == "a.example.com, *.b.example, [::1], c.example:8443"
    assert repr(rule) == f"HostRule({rule})"


def test_the_memo_of_verdicts_stays_small_and_holds_no_password() -> None:
    rule = HostRule.parse("*.example.com")
    for n in range(1000):
        assert rule.allows(f"https://h{n}.example.com/")
    assert rule.allows("https://user:hunter2@a.example.com/")
    assert len(rule._verdicts) <= 256
    assert "hunter2" not in repr(rule._verdicts)


_pieces = st.sampled_from(
    [
        "api.example.com",
        "evil.com",
        "@",
        ":",
        "\\",
        "/",
        "?",
        "#",
        ".",
        "%2e",
        "%40",
        "。",
        "[",
        "]",
        "443",
        " ",
        "\t",
        "::1",
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.lists(_pieces, max_size=7).map("".join))
@example("api.example.com\\@evil.com")
def test_what_is_allowed_is_where_requests_would_connect_to(rest: str) -> None:
    import requests

    url = f"https://{rest}"
    if not HostRule.parse("api.example.com").allows(url):
        return
    prepared = requests.Request("GET", url).prepare().url
    assert prepared is not None
    assert (urlsplit(prepared).hostname or "").rstrip(".") == "api.example.com"
    if url.isascii():
        assert (urlsplit(url).hostname or "").rstrip(".") == "api.example.com", "also if it is never prepared"


def test_importing_the_module_loads_nothing_heavy() -> None:
    code = (
        "import sys, resilience.http.auth, resilience.http.hosts\n"
        "from resilience import file, oauth2_client_credentials, secrets_manager, ssm_parameter\n"
        "rule = resilience.http.hosts.HostRule.parse('a.example')\n"
        "assert rule.allows('https://a.example/')\n"
        "heavy = 'requests urllib3 cachetools asyncio boto3 hmac uuid random'.split()\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
