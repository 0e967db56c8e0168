"""An identity provider for tests: its keys, its key set, its tokens."""

from __future__ import annotations

import json
from time import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

MAKE = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
ISSUER = "https://issuer.example"


class Issuer:
    """Signs tokens; `jwks` is its public side."""

    def __init__(self, *algorithms: str) -> None:
        self.keys: dict[str, tuple[str, Any]] = {}
        for algorithm in algorithms or ("ES256",):
            self.add(algorithm.lower(), algorithm)

    def add(self, kid: str, algorithm: str = "ES256") -> None:
        self.keys[kid] = algorithm, MAKE[algorithm]()

    @property
    def public(self) -> list[dict[str, Any]]:
        return [
            jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
            | {"kid": kid, "use": "sig"}
            for kid, (algorithm, key) in self.keys.items()
        ]

    @property
    def jwks(self) -> bytes:
        return json.dumps({"keys": self.public}).encode()

    def token(self, kid: str = "es256", **claims: Any) -> str:
        """Sign the usual claims with changes; a claim that is None is left out."""
        algorithm, key = self.keys[kid]
        usual = {"iss": ISSUER, "aud": "models", "scope": "infer", "exp": time() + 3600}
        given = {name: value for name, value in (usual | claims).items() if value is not None}
        return jwt.encode(given, key, algorithm, {"kid": kid})
