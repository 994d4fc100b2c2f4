"""What a replay puts in place of ops: other gradients (guided), equal and faster functions (lowering)."""
