"""Credentials kept in AWS: Secrets Manager and Systems Manager Parameter Store."""

from __future__ import annotations

import json
import os
from typing import Any

from resilience.core.errors import ConfigurationError, CredentialUnavailable
from resilience.core.settings import Settings
from resilience.http.credential import Credential, Provider, Sealed, problem_with

__all__ = ["secrets_manager", "ssm_parameter"]

#: Seconds. A caller waits for this, and AWS answers in milliseconds.
_CONNECT, _READ, _ATTEMPTS = 2, 5, 2


def secrets_manager(
    secret_id: str,
    *,
    key: str | None = None,
    version_stage: str = "AWSCURRENT",
    ttl: float = 300.0,
    region: str | None = None,
    endpoint_url: str | None = None,
    client: Any = None,
) -> Provider:
    """A secret of AWS Secrets Manager (`GetSecretValue`).

    secret_id: its name or ARN. key: the field to take, where the secret is a JSON object.
    version_stage: a staging label; rotation moves `AWSCURRENT` to the new value.
    ttl: seconds, above 0, for which the value is kept.
    region, endpoint_url: as for `boto3.client`; what the environment says where they are not given.
    client: a boto3 client to use instead of one of our own.
    Raises `ConfigurationError` at once for wrong settings, `CredentialUnavailable` when asked.
    """
    settings = Settings("secrets_manager")
    settings.text("secret_id", secret_id)
    settings.text("key", key, optional=True)
    settings.text("version_stage", version_stage)
    aws = _Aws(settings, "secretsmanager", ttl, region, endpoint_url, client)
    return _SecretsManager(aws, secret_id, key, version_stage)


def ssm_parameter(
    name: str,
    *,
    key: str | None = None,
    ttl: float = 300.0,
    region: str | None = None,
    endpoint_url: str | None = None,
    client: Any = None,
) -> Provider:
    """A parameter of AWS Systems Manager Parameter Store (`GetParameter`, decrypted).

    name: its name or ARN, with `:version` or `:label` if need be. The others are as in `secrets_manager`.
    """
    settings = Settings("ssm_parameter")
    settings.text("name", name)
    settings.text("key", key, optional=True)
    return _SsmParameter(_Aws(settings, "ssm", ttl, region, endpoint_url, client), name, key)


class _Aws:
    """A boto3 client, made at first use, and again after a fork or a drop.

    What changes: `_made`, the client and the process it was made in. No lock: it is replaced whole, and one client too
    many does no harm.
    """

    def __init__(
        self, settings: Settings, service: str, ttl: float, region: str | None, endpoint_url: str | None, client: Any
    ) -> None:
        settings.number("ttl", ttl, above=True)
        settings.text("region", region, optional=True)
        settings.url("endpoint_url", endpoint_url)
        if client is not None and (region is not None or endpoint_url is not None):
            raise ConfigurationError(f"{settings.decorator}: client= has its own region and endpoint; give it alone")
        self.ttl = ttl
        self._service = service
        self._region = region
        self._endpoint_url = endpoint_url
        self._given = client
        self._made: tuple[int, Any] | None = None

    @property
    def client(self) -> Any:
        """A client that no other process uses."""
        if self._given is not None:
            return self._given
        made = self._made
        if made is None or made[0] != os.getpid():
            self._made = made = (os.getpid(), self._make())
        return made[1]

    def _make(self) -> Any:
        # 161 ms, and no requirement of ours; AWS Lambda has it.
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise CredentialUnavailable("boto3 is not installed: pip install boto3") from error
        config = Config(
            connect_timeout=_CONNECT, read_timeout=_READ, retries={"mode": "standard", "total_max_attempts": _ATTEMPTS}
        )
        # A session of our own: boto3's default one is not safe to share between threads.
        session = boto3.session.Session()
        return session.client(self._service, region_name=self._region, endpoint_url=self._endpoint_url, config=config)

    def drop(self) -> None:
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            made[1].close()


class _AwsProvider(Provider):
    """What the two have in common. Immutable, but for the client in `_aws`."""

    _service = ""

    def __init__(self, aws: _Aws, secret_id: str, key: str | None) -> None:
        self.name = f"{self._service}:{secret_id}" + ("" if key is None else f"#{key}")
        self.ttl = aws.ttl
        self._aws = aws
        self._id = secret_id
        self._key = key

    def __call__(self) -> Credential:
        try:
            sealed = self._fetch()
        except CredentialUnavailable as error:
            raise CredentialUnavailable(f"{self.name}: {error}") from error
        except Exception as error:
            raise CredentialUnavailable(f"{self.name}: {_told(error)}") from error
        return self._chosen(sealed)

    def _fetch(self) -> Sealed[Any]:
        raise NotImplementedError

    def _chosen(self, sealed: Sealed[Any]) -> Credential:
        """The value, or the field of it, as a credential."""
        fields = _json_object(sealed)
        if self._key is None and fields.value is not None:
            raise CredentialUnavailable(f"{self.name}: the secret is a JSON object; say with key= which field is meant")
        if self._key is not None:
            if fields.value is None:
                raise CredentialUnavailable(
                    f"{self.name}: the secret is no JSON object, so it has no key {self._key!r}"
                )
            if self._key not in fields.value:
                raise CredentialUnavailable(f"{self.name}: the secret has no key {self._key!r}")
            sealed = Sealed(fields.value[self._key])
        problem = problem_with(sealed.value)
        if problem is not None:
            raise CredentialUnavailable(f"{self.name}: the secret {problem}")
        return Credential(sealed.value)

    def drop(self) -> None:
        self._aws.drop()


class _SecretsManager(_AwsProvider):
    _service = "secretsmanager"

    def __init__(self, aws: _Aws, secret_id: str, key: str | None, version_stage: str) -> None:
        super().__init__(aws, secret_id, key)
        self._stage = version_stage

    def _fetch(self) -> Sealed[Any]:
        answer = Sealed(self._aws.client.get_secret_value(SecretId=self._id, VersionStage=self._stage))
        text = Sealed(answer.value.get("SecretString"))
        if text.value is None:
            text.value = answer.value.get("SecretBinary", b"").decode("utf-8", "replace")
        return text


class _SsmParameter(_AwsProvider):
    _service = "ssm"

    def _fetch(self) -> Sealed[Any]:
        return Sealed(self._aws.client.get_parameter(Name=self._id, WithDecryption=True)["Parameter"]["Value"])


def _json_object(sealed: Sealed[Any]) -> Sealed[dict[str, Any] | None]:
    # The error of the parser holds the text: it must not be the context of one of ours.
    try:
        parsed = Sealed(json.loads(sealed.value))
    except ValueError:
        return Sealed(None)
    return Sealed(parsed.value if isinstance(parsed.value, dict) else None)


def _told(error: Exception) -> str:
    """What AWS said: a code and a sentence about who may do what, which hold no secret."""
    response = getattr(error, "response", None)
    said = response.get("Error", {}) if isinstance(response, dict) else {}
    return ": ".join(str(part) for part in (said.get("Code"), said.get("Message")) if part) or type(error).__name__
