"""How results look on a terminal; the only place that knows markup."""
