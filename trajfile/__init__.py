"""trajfile: record a neural network's training trajectory once, and ask it questions later."""

__version__ = "0.1.0"
