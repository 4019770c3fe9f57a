"""What goes through the pipes of a compiler process: one request on its standard input, one reply on its standard output."""

from __future__ import annotations

import struct

REQUEST_HEAD = struct.Struct("<Q?")
"""Length of the module that follows, and whether it has a start section: the trusted side has read it, and knows."""

REPLY_HEAD = struct.Struct("<cQ")
"""A verdict and the length of what follows: the artifact, or a message in UTF-8."""

COMPILED, REFUSED, NO_MEMORY, NO_ENGINE = b"+", b"-", b"m", b"!"
