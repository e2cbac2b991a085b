"""The `trajfile` command."""
