"""What an export promises to its clients: signatures, inputs and their checks, batch sizes, compilation."""
