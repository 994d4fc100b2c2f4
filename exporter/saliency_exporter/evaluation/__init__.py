"""Whether the maps of an export can be trusted: weights randomised, versions compared."""
