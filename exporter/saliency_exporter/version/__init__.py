"""One version directory of an export: written, verified, described."""
