"""A bundle's graphs over one set of buffers, and what the host does between them."""
