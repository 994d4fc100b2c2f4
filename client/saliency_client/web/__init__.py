"""Pages for people: what the gallery and the live page share, and the gallery."""
