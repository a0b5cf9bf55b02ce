"""Encoders on a server, asked over HTTP.

May import `engine.load`, `engine.model` and what stands below them.
"""

from engine.load import load_encoder
from engine.protocol import Encoder, Encoding

__all__ = ["Encoder", "Encoding", "load_encoder"]
