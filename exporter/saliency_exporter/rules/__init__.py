"""What a replay does to ops: guided gives them other gradients, lowering makes equal functions faster."""
