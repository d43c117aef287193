from __future__ import annotations

import base64
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from resilience import file, oauth2_client_credentials, secrets_manager, ssm_parameter
from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError, CredentialUnavailable
from resilience.http.auth import Credential, CredentialSource

SECRET = "sk-Zq3xV9-do-not-show"
CLIENT_SECRET = "cs/9+w:do not show"


class Peer:
    """A real HTTP server on loopback that answers what it is told and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[str, str], str]] = []
        self.answer: Callable[[dict[str, str], str], tuple[int, Any]] = lambda headers, body: (200, {})
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # One write for headers and body: two would wait for each other (Nagle's algorithm).
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                headers = {k.lower(): v for k, v in self.headers.items()}
                peer.asked.append((headers, body))
                status, answer = peer.answer(headers, body)
                sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", peer.url + "/elsewhere")
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


def everything_shown(error: BaseException) -> str:
    """Messages and frames of ours with their locals, along the whole chain."""
    told: list[str] = []
    todo: list[traceback.TracebackException | None] = [
        traceback.TracebackException.from_exception(error, capture_locals=True)
    ]
    while todo:
        one = todo.pop()
        if one is not None:
            ours = [f for f in one.stack if f"resilience{os.sep}http" in f.filename and "tests" not in f.filename]
            told += [*one.format_exception_only(), *traceback.StackSummary.from_list(ours).format()]
            todo += [one.__cause__, one.__context__]
    return "".join(told)


def failing(provider: Callable[[], Any]) -> str:
    """What a provider says when it fails, itself and by way of a source; none of it may hold a secret."""
    with pytest.raises(CredentialUnavailable) as direct:
        provider()
    with pytest.raises(CredentialUnavailable) as shared:
        CredentialSource(provider=provider).get()
    for error in (direct.value, shared.value):
        for secret in (SECRET, CLIENT_SECRET):
            assert secret not in everything_shown(error)
    assert str(direct.value) in str(shared.value)
    return str(direct.value)


# ---- file


def test_a_file_is_read_without_the_end_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("\ufeff  token \r\n", encoding="utf-8")
    provider = file(path)
    assert provider() == Credential("token")
    assert provider() is provider(), "an unchanged file is not read again"
    assert repr(provider) == f"<provider file:{path}>"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    source = CredentialSource(provider=file(str(path)))
    stale = source.get()
    assert source.renew(stale) is None
    path.write_text("three")
    assert source.get().value == "three"
    assert source.renew(stale) == Credential("three")


def test_a_rotation_as_kubernetes_does_it_is_seen(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "key").write_text(f"token-{version}")
        os.utime(tmp_path / version / "key", ns=(10**18, 10**18))
    data = tmp_path / "..data"
    data.symlink_to("1")
    (tmp_path / "key").symlink_to("..data/key")
    source = CredentialSource(provider=file(tmp_path / "key"))
    assert source.get().value == "token-1"
    (tmp_path / "..new").symlink_to("2")
    os.rename(tmp_path / "..new", data)
    assert source.get().value == "token-2", "same size, same time, another file"


def test_a_change_that_cannot_be_seen_from_outside_is_seen_after_a_401(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("token-1")
    os.utime(path, ns=(10**18, 10**18))
    source = CredentialSource(provider=file(path))
    stale = source.get()
    with path.open("r+") as handle:
        handle.write("token-2")
    os.utime(path, ns=(10**18, 10**18))
    assert source.renew(stale) == Credential("token-2")


def test_dropping_a_source_leaves_nothing_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    provider = file(path)
    source = CredentialSource(provider=provider)
    source.get()
    source.drop()
    assert not any(isinstance(v, (Credential, tuple)) for v in vars(provider).values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (SECRET.encode() + b"\nand more", "control character"),
        (SECRET.encode() + b"\xff", "outside latin-1"),
        (b"x" * 70_000, "at most 65536"),
    ],
)
def test_a_file_that_holds_no_credential_is_named_and_not_shown(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    told = failing(file(path))
    assert said in told
    assert str(path) in told


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    provider = file(tmp_path / "key")
    assert "No such file" in failing(provider)
    (tmp_path / "key").write_text("token")
    assert provider() == Credential("token")
    (tmp_path / "key").unlink()
    assert "No such file" in failing(provider), "what was read before is not used"
    assert "not a regular file" in failing(file(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in failing(file(tmp_path / "pipe"))


def test_without_strip_a_file_must_hold_the_credential_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET + "\n")
    assert "line break" in failing(file(path, strip=False))


# ---- AWS


@pytest.fixture
def aws(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Peer:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    return peer


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore", "ignore::DeprecationWarning:boto3")


def test_a_secret_of_secrets_manager_is_asked_for_by_its_stage(aws: Peer) -> None:
    aws.answer = lambda headers, body: (200, {"SecretString": SECRET})
    provider = secrets_manager("prod/key", version_stage="AWSPREVIOUS", endpoint_url=aws.url)
    assert provider() == Credential(SECRET)
    headers, body = aws.asked[0]
    assert headers["x-amz-target"] == "secretsmanager.GetSecretValue"
    assert json.loads(body) == {"SecretId": "prod/key", "VersionStage": "AWSPREVIOUS"}
    assert "eu-central-1/secretsmanager" in headers["authorization"]
    assert repr(provider) == "<provider secretsmanager:prod/key>"


def test_a_field_of_a_json_secret_is_taken_by_its_key(aws: Peer) -> None:
    aws.answer = lambda headers, body: (200, {"SecretString": json.dumps({"user": "u", "api_key": SECRET, "n": 5})})
    given: dict[str, Any] = {"endpoint_url": aws.url, "region": "us-east-1"}
    assert secrets_manager("s", key="api_key", **given)() == Credential(SECRET)
    assert "us-east-1" in aws.asked[0][0]["authorization"]
    assert "no key 'other'" in failing(secrets_manager("s", key="other", **given))
    assert "must be a str, not int" in failing(secrets_manager("s", key="n", **given))
    assert "say with key=" in failing(secrets_manager("s", **given))


@pytest.mark.parametrize("text", [SECRET, f'{{"api_key": "{SECRET}"', f'["{SECRET}"]'])
def test_a_key_of_a_secret_that_is_no_json_object_is_an_error(aws: Peer, text: str) -> None:
    aws.answer = lambda headers, body: (200, {"SecretString": text})
    assert "no JSON object" in failing(secrets_manager("s", key="api_key", endpoint_url=aws.url))


def test_a_binary_secret_is_read_as_text(aws: Peer) -> None:
    aws.answer = lambda headers, body: (200, {"SecretBinary": base64.b64encode(SECRET.encode()).decode()})
    assert secrets_manager("s", endpoint_url=aws.url)() == Credential(SECRET)
    aws.answer = lambda headers, body: (200, {"SecretBinary": base64.b64encode(b"\xff\xfe" + SECRET.encode()).decode()})
    assert "outside latin-1" in failing(secrets_manager("s", endpoint_url=aws.url))


def test_a_parameter_is_asked_for_decrypted(aws: Peer) -> None:
    aws.answer = lambda headers, body: (200, {"Parameter": {"Name": "/k", "Type": "SecureString", "Value": SECRET}})
    provider = ssm_parameter("/prod/key", endpoint_url=aws.url)
    assert provider() == Credential(SECRET)
    headers, body = aws.asked[0]
    assert headers["x-amz-target"] == "AmazonSSM.GetParameter"
    assert json.loads(body) == {"Name": "/prod/key", "WithDecryption": True}
    assert provider.name == "ssm:/prod/key"


def test_what_aws_says_against_it_is_told(aws: Peer) -> None:
    said = {"__type": "AccessDeniedException", "message": "User: me is not authorized"}
    aws.answer = lambda headers, body: (400, said)
    told = failing(ssm_parameter("/k", endpoint_url=aws.url))
    assert told == "ssm:/k: AccessDeniedException: User: me is not authorized"


@pytest.mark.slow  # botocore sleeps before its second try
def test_an_aws_that_fails_is_asked_twice_and_no_more(aws: Peer) -> None:
    aws.answer = lambda headers, body: (500, {"__type": "InternalServiceError", "message": "oh"})
    with pytest.raises(CredentialUnavailable, match="InternalServiceError"):
        secrets_manager("s", endpoint_url=aws.url)()
    assert len(aws.asked) == 2


def test_the_value_is_kept_for_the_ttl_of_the_provider_and_renewed_after_a_401(aws: Peer) -> None:
    values = iter(["one", "two"])
    aws.answer = lambda headers, body: (200, {"SecretString": next(values)})
    source = CredentialSource(provider=secrets_manager("s", ttl=60, endpoint_url=aws.url), ttl=300)
    assert source._ttl == 60
    first = source.get()
    assert source.get() is first
    assert source.renew(first) == Credential("two")
    assert len(aws.asked) == 2


def test_a_client_of_the_users_own_is_used_and_not_closed() -> None:
    class Client:
        closed = False

        def get_parameter(self, **asked: Any) -> Any:
            return {"Parameter": {"Value": SECRET}}

        def close(self) -> None:
            self.closed = True

    client = Client()
    provider = ssm_parameter("/k", client=client)
    assert provider() == Credential(SECRET)
    provider.drop()
    assert not client.closed


def test_our_own_client_is_kept_and_closed_when_dropped(aws: Peer) -> None:
    aws.answer = lambda headers, body: (200, {"SecretString": SECRET})
    provider = secrets_manager("s", endpoint_url=aws.url)
    provider()
    made: Any = provider._aws._made  # type: ignore[attr-defined]
    provider()
    assert provider._aws._made is made  # type: ignore[attr-defined]
    provider.drop()
    assert provider._aws._made is None  # type: ignore[attr-defined]
    assert provider() == Credential(SECRET)


def test_a_missing_boto3_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "boto3 is not installed" in failing(secrets_manager("s"))


def test_an_answer_without_what_was_asked_for_is_a_failure(aws: Peer) -> None:
    assert "KeyError" in failing(ssm_parameter("/k", endpoint_url=aws.url))
    assert "is empty" in failing(secrets_manager("s", endpoint_url=aws.url))


# ---- OAuth 2.0


def oauth(peer: Peer, **settings: Any) -> Any:
    given: dict[str, Any] = {"client_id": "me:1", "client_secret": CLIENT_SECRET, **settings}
    return oauth2_client_credentials(peer.url + "/token", **given)


def test_a_token_is_asked_for_by_the_rfc(peer: Peer) -> None:
    peer.answer = lambda headers, body: (200, {"access_token": SECRET, "token_type": "bearer", "expires_in": 3600})
    before = CLOCK.wall()
    token = oauth(peer, scope="read write", audience="https://api", leeway=60)()
    assert token == Credential(SECRET)
    assert before + 3540 <= token.expires_at <= CLOCK.wall() + 3540
    headers, body = peer.asked[0]
    user, _, password = base64.b64decode(headers["authorization"].removeprefix("Basic ")).decode().partition(":")
    assert (user, password) == ("me%3A1", "cs%2F9%2Bw%3Ado+not+show"), "form-encoded first"
    assert headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(body) == {
        "grant_type": ["client_credentials"],
        "scope": ["read write"],
        "audience": ["https://api"],
    }


def test_by_post_the_secret_goes_in_the_body_and_netrc_adds_nothing(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login mallory password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    peer.answer = lambda headers, body: (200, {"access_token": SECRET})
    assert oauth(peer, auth="post")().expires_at is None
    headers, body = peer.asked[0]
    assert "authorization" not in headers
    assert int(headers["content-length"]) == len(body)
    assert parse_qs(body)["client_secret"] == [CLIENT_SECRET]
    assert parse_qs(body)["client_id"] == ["me:1"]
    oauth(peer)()
    assert "mallory" not in base64.b64decode(peer.asked[1][0]["authorization"].removeprefix("Basic ")).decode()


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [(100, 90), ("100", 90), (4, 2), (None, None), (0, None), (-5, None), ("soon", None), (True, None), ([], None)],
)
def test_the_life_of_a_token_is_what_the_server_says_less_the_leeway(peer: Peer, expires_in: Any, life: Any) -> None:
    peer.answer = lambda headers, body: (200, {"access_token": SECRET, "expires_in": expires_in})
    before = CLOCK.wall()
    ends = oauth(peer)().expires_at
    if life is None:
        assert ends is None
    else:
        assert before + life <= ends <= CLOCK.wall() + life


def test_the_client_secret_may_come_from_elsewhere_each_time(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.answer = lambda headers, body: (200, {"access_token": SECRET})
    given = oauth(peer, client_secret="env:CLIENT_SECRET", auth="post")
    monkeypatch.delenv("CLIENT_SECRET", raising=False)
    assert "CLIENT_SECRET is not set" in failing(given)
    monkeypatch.setenv("CLIENT_SECRET", "one")
    given()
    monkeypatch.setenv("CLIENT_SECRET", "two")
    given()
    oauth(peer, client_secret=lambda: Credential("three"), auth="post")()
    assert [parse_qs(body)["client_secret"] for _, body in peer.asked] == [["one"], ["two"], ["three"]]
    assert "client_secret" in failing(oauth(peer, client_secret=lambda: 5))
    assert "client_secret: KeyError" in failing(oauth(peer, client_secret=lambda: {}["x"]))


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (
            401,
            {"error": "invalid_client", "error_description": f"no client with {CLIENT_SECRET}"},
            "HTTP 401 invalid_client",
        ),
        (400, {"error": f"bad: {CLIENT_SECRET}"}, "HTTP 400"),
        (400, {"error": {"a": CLIENT_SECRET}}, "HTTP 400"),
        (503, b"<html>" + CLIENT_SECRET.encode(), "HTTP 503"),
        (302, {"access_token": SECRET}, "HTTP 302"),
        (200, f'{{"access_token": "{SECRET}"'.encode(), "must be a str, not NoneType"),
        (200, [SECRET], "must be a str, not NoneType"),
        (200, {"access_token": None}, "must be a str, not NoneType"),
        (200, {"access_token": SECRET + "\n"}, "line break"),
        (200, {"access_token": ""}, "is empty"),
    ],
)
def test_a_refusal_is_told_without_what_the_server_echoes(peer: Peer, status: int, answer: Any, said: str) -> None:
    peer.answer = lambda headers, body: (status, answer)
    for auth in ("basic", "post"):
        told = failing(oauth(peer, auth=auth))
        assert told.startswith(f"oauth2:{peer.url[7:]}: ")
        assert told.endswith(said)
    assert len(peer.asked) == 4, "and a redirect is not followed"


def test_a_server_that_is_not_there_is_a_failure_without_the_frames_that_hold_the_secret() -> None:
    gone = Peer()
    gone.close()
    assert "ConnectionError" in failing(oauth(gone))
    with pytest.raises(CredentialUnavailable) as caught:
        oauth(gone)()
    # Nothing of requests or urllib3 hangs on it, whose frames hold the headers that were sent.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_timeout(peer: Peer) -> None:
    release = threading.Event()
    peer.answer = lambda headers, body: (release.wait(20), (200, {}))[1]
    try:
        assert "Timeout" in failing(oauth(peer, timeout=0.2))
    finally:
        release.set()


def test_a_token_request_is_not_guarded_by_the_call_that_needs_the_token(peer: Peer) -> None:
    import resilience

    peer.answer = lambda headers, body: (200, {"access_token": SECRET})
    provider = oauth(peer)

    # The token's server is one of the hosts, and yet gets the client's credential, not the token it is asked for.
    @resilience.pooled
    @resilience.circuit_breaker
    @resilience.retry_ratelimit
    @resilience.fresh_auth(provider=provider, hosts="127.0.0.1")
    def handler() -> int:
        import requests

        return requests.post(peer.url + "/api", timeout=5).status_code

    assert handler() == 200
    assert [h["authorization"].split()[0] for h, _ in peer.asked] == ["Basic", "Bearer"]


# ---- settings


def oauth_with(**settings: Any) -> Any:
    given: dict[str, Any] = {"token_url": "https://a.example/t", "client_id": "me", "client_secret": CLIENT_SECRET}
    return oauth2_client_credentials(**{**given, **settings})


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: file(""), "path=''"),
        (lambda: file(None), "path=None"),  # type: ignore[arg-type]
        (lambda: file("a\0b"), "path="),
        (lambda: file("a", strip=1), "strip=1"),  # type: ignore[arg-type]
        (lambda: secrets_manager(""), "secret_id=''"),
        (lambda: secrets_manager("s", key=""), "key=''"),
        (lambda: secrets_manager("s", version_stage=""), "version_stage=''"),
        (lambda: secrets_manager("s", ttl=0), "ttl=0"),
        (lambda: secrets_manager("s", region=""), "region=''"),
        (lambda: secrets_manager("s", endpoint_url="localhost"), "endpoint_url='localhost'"),
        (lambda: secrets_manager("s", client=object(), region="x"), "client="),
        (lambda: ssm_parameter(None), "name=None"),  # type: ignore[arg-type]
        (lambda: ssm_parameter("n", key=""), "key=''"),
        (lambda: ssm_parameter("n", ttl=-1), "ttl=-1"),
        (lambda: oauth_with(token_url="http://a.example/t"), "token_url='http://a.example/t'"),
        (lambda: oauth_with(token_url=None), "token_url=None"),
        (lambda: oauth_with(token_url="https://a.example/t#x"), "token_url="),
        (lambda: oauth_with(token_url=f"https://u:{SECRET}@a.example/t"), "token_url='...@a.example/t'"),
        (lambda: oauth_with(client_id=""), "client_id=''"),
        (lambda: oauth_with(client_secret=""), "client_secret="),
        (lambda: oauth_with(client_secret="env:"), "client_secret="),
        (lambda: oauth_with(client_secret=None), "client_secret="),
        (lambda: oauth_with(scope=""), "scope=''"),
        (lambda: oauth_with(audience=5), "audience=5"),
        (lambda: oauth_with(auth="none"), "auth='none'"),
        (lambda: oauth_with(timeout=0), "timeout=0"),
        (lambda: oauth_with(timeout=61), "timeout=61"),
        (lambda: oauth_with(leeway=-1), "leeway=-1"),
    ],
)
def test_a_wrong_setting_of_a_provider_is_named_at_once(make: Callable[[], Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert named in str(caught.value)
    assert SECRET not in str(caught.value)
    assert CLIENT_SECRET not in everything_shown(caught.value)


def test_providers_show_no_secret_of_theirs() -> None:
    provider = oauth_with()
    shown = repr(provider) + repr(vars(provider)) + repr(vars(provider._auth)) + repr(vars(provider._auth._secret))
    assert CLIENT_SECRET not in shown
    assert repr(provider) == "<provider oauth2:a.example>"
