"""A backend that knows its users without asking the gateway: it checks the JWT of POST /token by itself.

Needs PyJWT and cryptography (Debian: python3-jwt). Run:

    AUDIENCE=orders JWKS_URL=http://gateway:3000/.well-known/jwks.json python3 verify_jwt.py

JWKS_URL: where the gateway publishes its keys. AUDIENCE: this service, as in the gateway's JWT_AUDIENCES.
ISSUER: the gateway's JWT_ISSUER. PORT: 0 takes a free one.

What it does not know: whether the user has logged out in the last minutes (JWT_TTL_SECONDS). Where that
matters, ask the gateway's /auth instead.
"""

import json
import os
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt

AUDIENCE = os.environ["AUDIENCE"]
ISSUER = os.environ.get("ISSUER", "urn:wechat-login-gateway")
BEARER = re.compile(r"Bearer ([\w.-]{1,2048})", re.IGNORECASE | re.ASCII)
# Unknown kids are what strangers send; they must not make us ask the gateway each time.
COOLDOWN_SECONDS = 30

FAULTS = (jwt.PyJWTError, OSError, ValueError)
socket.setdefaulttimeout(5)  # older PyJWT fetches keys without any
jwks = jwt.PyJWKClient(os.environ["JWKS_URL"], lifespan=600)
keys_lock = threading.Lock()
looked_again_at = -COOLDOWN_SECONDS


def key_of(kid):
    """The public key of this kid; None when the gateway has none. Raises FAULTS without any keys."""
    global looked_again_at
    with keys_lock:
        for key in jwks.get_jwk_set().keys:
            if key.key_id == kid:
                return key.key
        if time.monotonic() - looked_again_at < COOLDOWN_SECONDS:
            return None
        looked_again_at = time.monotonic()
        return next((key.key for key in jwks.get_jwk_set(refresh=True).keys if key.key_id == kid), None)


def bearer_of(authorization):
    """Who sends this; None for whatever is not a token of the gateway for us."""
    match = BEARER.fullmatch(authorization)
    if match is None:
        return None
    token = match[1]
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        return None
    # PyJWT does not look at the type; RFC 9068 wants it looked at.
    key = key_of(header.get("kid")) if header.get("typ") == "at+jwt" else None
    if key is None:
        return None
    try:
        return jwt.decode(
            token,
            key,
            algorithms=["EdDSA"],  # never what the token says by itself
            audience=AUDIENCE,
            issuer=ISSUER,
            options={"require": ["sub", "exp", "iat", "aud", "iss", "appid"]},
        )
    except jwt.InvalidTokenError:
        return None


class Backend(BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            bearer = bearer_of(self.headers.get("Authorization", ""))
        except FAULTS:  # the keys cannot be had; nobody is let in for that
            return self.answer(503, {"Retry-After": "1"})
        if bearer is None:
            return self.answer(401, {"WWW-Authenticate": "Bearer"})
        self.answer(200, {"Content-Type": "application/json"}, {"sub": bearer["sub"], "appid": bearer["appid"]})

    def answer(self, status, headers, body=None):
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass  # a request line may hold what somebody pasted by mistake


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Backend)
    print(f"listening on {server.server_port}", flush=True)
    server.serve_forever()
