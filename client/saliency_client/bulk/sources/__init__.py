"""Where images come from: files of one picture, or of many."""
