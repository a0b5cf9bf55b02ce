"""What a server is told when it starts: its address, its limits, its patience. Checked before anything is loaded."""

import math
from dataclasses import dataclass, field

from engine.client.api_key import KEY_VARIABLE, check_key
from engine.client.proxies import is_loopback
from engine.errors import OptionError
from engine.runtime.request import Room


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Settings of the server.

    Attributes:
        host: address to listen on; anything but loopback needs a key.
        port: port; 0 takes a free one.
        key: API key; None lets everyone in, on loopback only.
        room: how much may wait.
        max_body_bytes: largest request body.
        max_inputs: most texts in a request.
        max_held_bytes: most bytes of request bodies in memory at a time, all clients together; and as many of answers
            that clients are slow to fetch.
        max_requests: most requests that are read to the end and not yet answered.
        max_connections: most connections; those above are answered with 503.
        deadline_s: a request that is not answered by then is refused with 504.
        body_s: a body that is not here by then is refused with 408.
        idle_s: a connection without a whole request head for so long is closed.
        drain_s: after SIGTERM, so long is left for what was admitted.

    Raises:
        OptionError: a value is out of range, the key cannot be used, or there is none and the address is not loopback.
    """

    host: str = "127.0.0.1"
    port: int = 8180
    key: str | None = None
    room: Room = field(default_factory=Room)
    max_body_bytes: int = 2 << 20
    max_inputs: int = 512
    max_held_bytes: int = 64 << 20
    max_requests: int = 4096
    max_connections: int = 8192
    deadline_s: float = 30.0
    body_s: float = 10.0
    idle_s: float = 15.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise OptionError(f"port is {self.port}; it must be 0 to 65535.")
        counts = ("max_body_bytes", "max_inputs", "max_held_bytes", "max_requests", "max_connections")
        for name in (*counts, "deadline_s", "body_s", "idle_s", "drain_s"):
            if not 0 < getattr(self, name) < math.inf:  # false for NaN
                raise OptionError(f"{name} is {getattr(self, name)}; it must be a number above 0.")
        if self.room.entries < 1 or self.room.tokens < 1:
            raise OptionError(
                f"The queue has room for {self.room.entries} texts and {self.room.tokens} tokens; give 1+."
            )
        if self.max_body_bytes > self.max_held_bytes:
            raise OptionError(
                f"max_body_bytes is {self.max_body_bytes}, above max_held_bytes, {self.max_held_bytes}: no such body "
                "could ever be read."
            )
        if self.key is not None:
            check_key(self.key)
        if self.key is None and not is_loopback(self.host):
            raise OptionError(
                f"The address {self.host} is reachable from other machines, and there is no key. Set {KEY_VARIABLE}, "
                "or listen on 127.0.0.1."
            )
