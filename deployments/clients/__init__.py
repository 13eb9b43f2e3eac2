"""How other people's programs are pointed at this server: a file each, for pages, documents and tests."""
