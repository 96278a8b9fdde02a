"""Reaching the server: directly or through a proxy, with which token, how long to try, and what to say where nobody answers."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from grpc import StatusCode

from stepstream._errors import StepStreamError, Unauthenticated
from stepstream._options import Backoff, ClientOptions
from stepstream._token import Token

# In gRPC's order of preference: https://grpc.github.io/grpc/core/md_doc_environment_variables.html
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXEMPT = ("no_grpc_proxy", "no_proxy")


class Reach:
    """Knows the way to one server, and whether it was ever reached."""

    def __init__(self, address: str, options: ClientOptions, environment: Mapping[str, str] = os.environ) -> None:
        self._address = address
        self._options = options
        self._host = host_of(address)
        self.reached = False
        """Whether the server has ever answered."""
        self.token = Token(options.token, options.token_file)
        self.direct = is_loopback(self._host)
        """Whether a proxy must not be asked: a proxy's loopback is another machine's."""
        self._proxy = "" if self.direct else _proxy(self._host, environment)

    def heard(self, failure: StepStreamError | None = None) -> None:
        """The server has answered, if only with a refusal: with a failure that has a reason, by which the server speaks."""
        if failure is None or failure.reason:
            self.reached = True
            self.token.accepted = self.token.accepted or not isinstance(failure, Unauthenticated)

    def backoff(self) -> Backoff:
        """The waits between the tries of one undertaking."""
        return Backoff(self._options, patience=self._patience)

    def _patience(self) -> float:
        if self.reached:
            return self._options.reconnect_seconds
        return min(self._options.connect_seconds, self._options.reconnect_seconds)

    def explained(self, error: StepStreamError) -> StepStreamError:
        """The error with what to do about it, if nobody was there to send it."""
        if error.code is not StatusCode.UNAVAILABLE or error.reason:
            return error
        hints = []
        if self._proxy:
            hints.append(f"it is dialled through {self._proxy}; {_EXEMPT[1]} names hosts that are not")
        if not self.reached and self._options.connect_seconds < self._options.reconnect_seconds:
            hints.append("ClientOptions(connect_seconds=60) waits for a server that is still starting")
        return error.again("; ".join([f"no server answers at {self._address}: {error.message}", *hints])) if hints else error


def target_of(address: str) -> str:
    """Gives what gRPC dials. Several addresses, IPv4:PORT or [IPv6]:PORT with commas between them, are those of one server or
    of its replicas: the first one that answers is used, and looked for anew whenever the connection breaks."""
    if "," not in address or address.startswith(("ipv4:", "ipv6:")):
        return address
    return f"ipv6:{address}" if address.startswith("[") else f"ipv4:{address}"


def host_of(address: str) -> str:
    """The host of one of gRPC's targets: HOST:PORT, dns:///HOST:PORT, ipv4:HOST:PORT; "" of a Unix socket; of several addresses
    that of the first."""
    scheme, _, rest = address.partition(":")
    if scheme in ("unix", "unix-abstract", "vsock"):
        return ""
    if scheme in ("dns", "ipv4", "ipv6"):
        address = rest.rpartition("/")[2]
    address = address.partition(",")[0]
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address if address.count(":") > 1 else address.partition(":")[0]


def is_loopback(host: str) -> bool:
    """Tells whether a host is this machine; "" stands for a Unix socket."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost") or host.endswith(".localhost")


def _proxy(host: str, environment: Mapping[str, str]) -> str:
    """The proxy that gRPC dials the host through, without its password, and the variable that names it; "" without one."""
    exempt = next((environment[name] for name in _EXEMPT if environment.get(name)), "")
    if any(host.endswith(suffix.strip()) for suffix in exempt.split(",") if suffix.strip()):
        return ""
    for name in _PROXIES:
        if value := environment.get(name):
            return f"the proxy {urlsplit(value).hostname}:{urlsplit(value).port} of {name}"
    return ""
