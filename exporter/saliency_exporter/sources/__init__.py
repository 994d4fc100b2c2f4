"""Where a model comes from. Every source gives one thing: a `Source`."""
