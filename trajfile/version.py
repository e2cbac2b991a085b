"""The version, apart from the public names, so that any layer may state it."""

__version__ = "0.1.0"
