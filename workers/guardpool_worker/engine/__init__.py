"""The WebAssembly engine behind a seam. Imports nothing: the forkserver loads only the modules that it names."""
