"""The one-pass engine: needs, a plan, and inner products over blocks of columns."""
