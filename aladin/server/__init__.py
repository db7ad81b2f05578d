"""The HTTP API and the page: a folder's collection, searched from a browser or a program."""
