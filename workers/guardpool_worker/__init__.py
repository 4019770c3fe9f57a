"""The untrusted side: what runs in the forkserver, the compiler and the workers."""
