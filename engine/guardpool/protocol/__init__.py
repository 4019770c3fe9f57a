"""All that crosses to an untrusted process: frames, packets, a shared page, the compiler's request and reply.

Both sides import these modules, so they hold words and data and no decisions.
"""
