"""The formats that recordings are read in, one module each; `ALL` is what the reader asks, in this order where equally sure."""

from __future__ import annotations

from guardpool.recordings.formats.calls import CALLS
from guardpool.recordings.formats.gateway_log import GATEWAY_LOG
from guardpool.recordings.formats.seam import Confidence, Feed, Format, Sink

ALL: tuple[Format, ...] = (CALLS, GATEWAY_LOG)

__all__ = ["ALL", "Confidence", "Feed", "Format", "Sink"]
