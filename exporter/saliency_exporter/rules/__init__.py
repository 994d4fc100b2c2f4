"""What a replay does to single ops or activations: other gradients (guided), faster equal code (lowering)."""
