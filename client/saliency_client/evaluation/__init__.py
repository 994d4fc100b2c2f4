"""Is a map any good? One file for each measure: arrays and functions in, numbers out."""
