"""The metrics: each a pure function from measurements to a result."""
